"""The norm layers, as Megatron-core builds them: called with keywords ``config``, ``hidden_size`` and ``eps``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .functional import ib_norm, layer_norm, rms_norm
from .plan import Form, Scale


class Norm(nn.Module):
    """A norm over the last dimension with an affine part; subclasses write ``forward``.

    Args:
        hidden_size: d, the width of a row.
        eps: added to the variance (or mean square) inside the root.
        config: the Megatron ``TransformerConfig`` that the builder passes; its ``params_dtype`` types the parameters
            and its ``sequence_parallel`` says that each rank sees only a part of the tokens.
        bias: whether there is a beta.
        center: whether the row's mean is subtracted.
        partial_over_tensor_parallel: true where the norm is applied to a rank's own heads only (q and k norms).

    The parameters are replicated over the tensor-parallel group. Where a rank's gradient covers only its share of the
    tokens or heads, the parameter carries a mark for whoever sums gradients: ``sequence_parallel`` (Megatron's own) or
    ``partial_over_tensor_parallel``. A norm never sets ``tensor_model_parallel``: that would count it once per rank
    in the gradient norm.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        config: Any = None,
        bias: bool,
        center: bool,
        partial_over_tensor_parallel: bool = False,
    ) -> None:
        super().__init__()
        dtype = getattr(config, "params_dtype", None)
        self.hidden_size, self.eps, self.center = hidden_size, eps, center
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=dtype)) if bias else None
        for parameter in self.parameters():
            parameter.sequence_parallel = bool(getattr(config, "sequence_parallel", False))
            parameter.partial_over_tensor_parallel = partial_over_tensor_parallel

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}, bias={self.bias is not None}, center={self.center}"


class LayerNorm(Norm):
    """LayerNorm (Ba, Kiros & Hinton, arXiv 1607.06450), with or without bias; without centring it is RMSNorm."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool = True, center: bool = True, **site: Any) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **site)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        return (layer_norm if self.center else rms_norm)(x, self.weight, self.bias, self.eps)


class RMSNorm(LayerNorm):
    """RMSNorm (Zhang & Sennrich, arXiv 1910.07467): LayerNorm with neither centring nor bias, unless asked for."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, *, bias: bool = False, center: bool = False, **site: Any) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **site)


class IBNorm(Norm):
    """IBNorm (arXiv 2510.25262): compress toward the mean, standardize, affine; see :func:`ib_norm` for the formula."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        *,
        compression: str = "log",
        lam: float = 4.0,
        scale: Scale = "absolute",
        form: Form = "unit_slope",
        bias: bool = True,
        center: bool = True,
        **site: Any,
    ) -> None:
        super().__init__(hidden_size, eps, bias=bias, center=center, **site)
        self.compression, self.lam, self.scale, self.form = compression, lam, scale, form

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., d]`` to the same shape and type."""
        return ib_norm(
            x,
            self.weight,
            self.bias,
            compression=self.compression,
            lam=self.lam,
            eps=self.eps,
            scale=self.scale,
            form=self.form,
            center=self.center,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.compression}, lam={self.lam}, {self.scale}, {self.form}"
