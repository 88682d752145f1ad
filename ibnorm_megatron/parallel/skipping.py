"""Between the norm of the gradient and the update: where a step can still be left out.

DeepSpeed 0.19 takes no step whose gradient has no finite norm. Here that norm is shown to a judge, on its way to
DeepSpeed's own check; a step that the judge refuses gets an infinite one. So a refused step is the same as one that DeepSpeed
skips by itself: gradients are dropped, and weights, moments and the count of steps stay as they are, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

#: Is shown the norm of the whole gradient, before clipping, the same on all ranks (inf where it is not finite); says whether
#: to leave out a step that is finite. Every rank asks its judge once a step, so it may communicate.
Judge = Callable[[Tensor], bool]


class Gate:
    """Stands in one DeepSpeed optimizer before its update. Within :meth:`watched`, a step asks a judge.

    Attributes:
        norm: what the judge of the last watched step was shown; None where it was not asked, because fp16 had found an
            overflow before.
        refused: whether it refused.
        searching: whether fp16 left out that step to find a loss scale that fits, which says nothing of the gradient.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._judge: Judge | None = None
        self._keeps_scale = False
        self.norm: Tensor | None = None
        self.refused = self.searching = False
        kind = type(optimizer).__name__
        assert kind in _INSTALL, f"nobody has looked at how DeepSpeed's {kind} skips a step"
        _INSTALL[kind](optimizer, self._judged)
        if kind != "BF16_Optimizer":
            self._guard_scale()

    @contextmanager
    def watched(self, judge: Judge | None) -> Iterator[None]:
        """The optimizer's step goes here. Without a judge it goes as ever."""
        self._judge, self.norm, self.refused, self.searching = judge, None, False, False
        try:
            yield
        finally:
            self._judge = None
        overflow = self._optimizer.overflow
        assert judge is None or self.norm is not None or overflow, "DeepSpeed did not compute the gradient's norm as it used to"
        assert overflow or not self.refused, "DeepSpeed took a step with an infinite norm"
        if overflow and getattr(self._optimizer, "cpu_offload", False):
            _drop_accumulated(self._optimizer)

    @contextmanager
    def keeping_scale(self) -> Iterator[None]:
        """A step in here does not change fp16's loss scale, whatever it finds."""
        self._keeps_scale = True
        try:
            yield
        finally:
            self._keeps_scale = False

    def _judged(self, norm: Tensor, scale: float) -> Tensor:
        """The norm that DeepSpeed goes on with; ``norm`` is that of the gradient times ``scale``, or -1 if it is not finite."""
        if self._judge is None:
            return norm
        self.norm = torch.where(torch.isfinite(norm) & (norm >= 0), norm, torch.inf) / scale
        self.refused = self._judge(self.norm)
        return torch.full_like(norm, torch.inf) if self.refused else norm

    def _guard_scale(self) -> None:
        """fp16 halves its loss scale after an overflow, and raises an error where it cannot. A refused step is no overflow."""
        right = _attribute(self._optimizer, "_update_scale")

        def update_scale(has_overflow: bool = False) -> None:
            scaler = _attribute(self._optimizer, "loss_scaler")  # a checkpoint may bring another
            overflow = has_overflow and not self.refused
            at_minimum = scaler.dynamic and scaler.cur_scale <= scaler.min_scale
            self.searching = overflow and scaler.dynamic and not at_minimum
            if not self._keeps_scale and not (overflow and at_minimum):
                right(overflow)

        self._optimizer._update_scale = update_scale


def leave_overflow_to_the_norm(optimizer: Any) -> None:
    """In bf16 skip steps whose gradients hold an inf or NaN by their norm, which tells as much, and not by two more passes.

    DeepSpeed looks at both under ``check_grad_overflow``; switched off there it would take such a step. Only ZeRO 1 and 2
    without offloading compute the norm before anything else. fp16 keeps its own check, which sets the loss scale.
    """
    if getattr(optimizer, "compute_grad_norm", False) and not optimizer.cpu_offload:
        optimizer.check_overflow = lambda partition_gradients=True: None


def _drop_accumulated(optimizer: Any) -> None:
    """Skipping a step with offloading at stages 1 and 2, DeepSpeed keeps what it accumulated in float32 and adds the next
    step's gradient to it: one NaN, and every step after it is skipped."""
    for group in _attribute(optimizer, "averaged_gradients"):
        optimizer.averaged_gradients[group] = None


def _attribute(optimizer: Any, name: str) -> Any:
    assert hasattr(optimizer, name), f"DeepSpeed's {type(optimizer).__name__} has no {name} any more"
    return getattr(optimizer, name)


_Judged = Callable[[Tensor, float], Tensor]


def _install_sharded(optimizer: Any, judged: _Judged) -> None:
    """Stages 1 and 2: the norm is what ``scaled_global_norm`` returns, and an infinite one skips the step."""
    right = _attribute(optimizer, "scaled_global_norm")
    assert _attribute(optimizer, "compute_grad_norm")
    assert optimizer.dtype != torch.bfloat16 or _attribute(optimizer, "check_grad_overflow")

    def scaled_global_norm(*arguments: Any, **keywords: Any) -> Tensor:
        return judged(right(*arguments, **keywords), optimizer.loss_scale)

    optimizer.scaled_global_norm = scaled_global_norm


def _install_stage3(optimizer: Any, judged: _Judged) -> None:
    """Stage 3 combines the norms of its groups; one of them infinite skips the step."""
    from deepspeed.runtime.utils import combine_grad_norm_groups

    right = _attribute(optimizer, "_get_norm_groups")

    def norm_groups() -> list[Any]:
        groups = right()
        norm = combine_grad_norm_groups(groups)
        going_on = judged(norm, optimizer.loss_scale)
        return groups if going_on is norm else [going_on]

    optimizer._get_norm_groups = norm_groups


def _install_bf16(optimizer: Any, judged: _Judged) -> None:
    """The optimizer for bf16 with float32 accumulation at stage 1 computes the norm amid its step, and there is no method
    to put another in the place of; but it first notes the norm in an attribute, and only then looks whether it is finite."""
    name = "_global_grad_norm"

    def note(self: Any, norm: Tensor | float) -> None:
        if torch.is_tensor(norm):
            norm.copy_(judged(norm.clone(), 1.0))
        vars(self)[name] = norm

    def noted(self: Any) -> Tensor | float:
        if name not in vars(self):
            raise AttributeError(name)
        found: Tensor | float = vars(self)[name]
        return found

    kind = type(optimizer)
    optimizer.__class__ = type(kind.__name__, (kind,), {name: property(noted, note)})


_INSTALL: dict[str, Callable[[Any, _Judged], None]] = {
    "DeepSpeedZeroOptimizer": _install_sharded,
    "DeepSpeedZeroOptimizer_Stage3": _install_stage3,
    "BF16_Optimizer": _install_bf16,
}
