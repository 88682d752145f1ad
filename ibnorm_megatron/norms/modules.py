"""The norm layers that standardize, as Megatron-core builds them: called with keywords ``config``, ``hidden_size``, ``eps``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .base import Norm
from .functional import ib_norm, layer_norm, rms_norm
from .plan import Form, Plan, Scale, Strength, wide


class StandardizingNorm(Norm):
    """A norm that divides a row by a root, then applies gain and bias; subclasses write ``forward``.

    Args:
        hidden_size: d, the width of a row.
        eps: added to the variance (or mean square) inside the root.
        bias: whether there is a beta.
        center: whether the row's mean is subtracted.
        place: the keywords of :class:`Norm`.
    """

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool, center: bool, **place: Any) -> None:
        super().__init__(hidden_size, **place)
        self.eps, self.center = eps, center
        self.weight: nn.Parameter | None = self.vector(1.0)  # none where it stands for a norm that had none
        self.bias = self.vector(0.0) if bias else None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}, bias={self.bias is not None}, center={self.center}"


class NoNorm(Norm):
    """The identity, for a site without a norm."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class LayerNorm(StandardizingNorm):
    """LayerNorm (Ba, Kiros & Hinton, arXiv 1607.06450), with or without bias; without centring it is RMSNorm."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool = True, center: bool = True, **place: Any) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **place)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        return self.standardize(x, self.weight, self.bias)

    def standardize(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """LayerNorm or, without centring, RMSNorm of x with this gain and bias; x's shape and type."""
        norm = layer_norm if self.center else rms_norm
        return norm(x, weight, bias, self.eps, self.process_group)


class RMSNorm(LayerNorm):
    """RMSNorm (Zhang & Sennrich, arXiv 1910.07467): LayerNorm with neither centring nor bias, unless asked for.

    With ``unit_offset`` the gain is 1 + w and w starts at 0 (Gemma, arXiv 2403.08295, has it in its code): bf16 holds small
    numbers finely and numbers around 1 coarsely, and weight decay, if it is applied, pulls the gain to 1 rather than to 0.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        bias: bool = False,
        center: bool = False,
        unit_offset: bool = False,
        **place: Any,
    ) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **place)
        self.unit_offset = unit_offset
        if unit_offset:
            self.weight = self.vector(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        if not self.unit_offset:
            return super().forward(x)
        # In bf16, 1 + w would be rounded to w's type; so everything is float32 until the end.
        bias = None if self.bias is None else wide(self.bias)
        return self.standardize(wide(x), 1 + wide(self.weight), bias).to(x.dtype)

    def gain(self) -> Tensor:
        """gamma ``[d]``: the weight, or 1 more than it."""
        return 1 + wide(self.weight) if self.unit_offset else self.weight


class IBNorm(StandardizingNorm):
    """IBNorm (arXiv 2510.25262): compress toward the mean, standardize, affine; see :func:`ib_norm` for the formula.

    Args:
        hidden_size: d, the width of a row.
        eps, compression, lam, scale, form, center: as in :func:`ib_norm`.
        strength: ``"fixed"`` keeps lambda at ``lam``. ``"learnable"`` starts there and learns ``log_lambda``, ``[1]``, so
            that lambda stays positive. ``"scheduled"`` arrives there: in the n-th of N steps lambda is
            ``lam / min(1, n / max(1, round(ramp N)))``, a function of n alone; without a :meth:`set_step` it is ``lam``.
        ramp: share of the run's steps that a scheduled compression takes to arrive.
        bias: whether there is a beta.
        place: the keywords of :class:`Norm`.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        compression: str = "log",
        lam: float = 4.0,
        scale: Scale = "absolute",
        form: Form = "unit_slope",
        strength: Strength = "fixed",
        ramp: float = 0.1,
        bias: bool = True,
        center: bool = True,
        **place: Any,
    ) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **place)
        self.compression, self.lam, self.scale, self.form = compression, lam, scale, form
        self.strength, self.ramp = strength, ramp
        self.log_lambda = self.scalar(math.log(lam)) if strength == "learnable" else None
        self._scheduled = lam
        # The same as a tensor, for a compiled norm: it would be compiled anew for every value of a number.
        self._scheduled_tensor = torch.full((1,), lam)

    def current_lambda(self) -> float | Tensor:
        """lambda as the next forward pass has it; a tensor ``[1]`` where it is learned."""
        if self.log_lambda is not None:
            return (self.log_lambda if self.log_lambda.dtype == torch.float64 else self.log_lambda.float()).exp()
        if self.strength == "scheduled" and torch.compiler.is_compiling():
            return self._scheduled_tensor
        return self._scheduled

    def plan(self) -> tuple[Plan, Tensor | None]:
        """The settings of the next forward pass; lambda is apart, ``[1]``, where it is a tensor, and 1 in the plan."""
        lam = self.current_lambda()
        number, tensor = (1.0, lam) if isinstance(lam, Tensor) else (lam, None)
        return Plan.of(self.compression, number, self.eps, self.scale, self.form, self.center), tensor

    def current_compression(self) -> Plan:
        """The compression, with lambda as the next forward pass has it."""
        lam = float(self.current_lambda())
        return Plan.of(self.compression, lam, self.eps, self.scale, "unit_slope", self.center)

    def set_step(self, done: int, steps: int) -> None:
        """Set a scheduled lambda for the step after ``done``; otherwise nothing."""
        if self.strength == "scheduled":
            self._scheduled = self.lam / min(1.0, (done + 1) / max(1, round(self.ramp * steps)))
            device = None if self.weight is None else self.weight.device
            self._scheduled_tensor = torch.full((1,), self._scheduled, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        return ib_norm(
            x,
            self.weight,
            self.bias,
            compression=self.compression,
            lam=self.current_lambda(),
            eps=self.eps,
            scale=self.scale,
            form=self.form,
            center=self.center,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.compression}, lam={self.lam}, {self.strength}, {self.scale}, {self.form}"
