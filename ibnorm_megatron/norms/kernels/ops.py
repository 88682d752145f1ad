"""The fused norm as custom ops of PyTorch, and their gradient.

As custom ops with fake functions they are opaque to torch.compile, which traces past them without a graph break. Triton is
imported when an op first runs on a GPU (or in Triton's interpreter), never before; on a CPU an op is :mod:`reference`.

Saved for backward: the normed rows (x, or the residual stream that the caller keeps anyway), gamma, and at most 20 bytes of
float32 statistics a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..plan import Plan
from .folding import Settings, slots


def fused_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan) -> Tensor:
    """The norm of x ``[..., d]`` (bf16, fp16 or fp32) by one kernel forward and one backward; same shape and type back."""
    return FusedNorm.apply(x.reshape(-1, x.shape[-1]), weight, bias, *Settings.of(plan)).view(x.shape)


def fused_add_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor]:
    """The norm of x + residual, and x + residual itself, each of x's shape and type, in the same number of kernels."""
    rows = [t.reshape(-1, t.shape[-1]) for t in (x, residual)]
    y, stream = FusedAddNorm.apply(*rows, weight, bias, *Settings.of(plan))
    return y.view(x.shape), stream.view(x.shape)


class FusedNorm(torch.autograd.Function):
    """``apply(x, weight, bias, *settings)`` with x ``[n, d]``, weight and bias ``[d]`` or None; returns y ``[n, d]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any) -> Tensor:
        y, stats = norm_forward(x, weight, bias, *settings)
        ctx.save_for_backward(x, weight, stats)
        ctx.bias, ctx.settings = None if bias is None else bias.dtype, settings
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, stats = ctx.saved_tensors
        return (*_gradients(ctx, dy, None, x, weight, stats), *[None] * len(Settings._fields))


class FusedAddNorm(torch.autograd.Function):
    """``apply(x, residual, weight, bias, *settings)``; returns y and the new residual stream, each ``[n, d]``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any
    ) -> tuple[Tensor, Tensor]:
        y, stream, stats = add_norm_forward(x, residual, weight, bias, *settings)
        ctx.save_for_backward(stream, weight, stats)
        ctx.bias, ctx.settings = None if bias is None else bias.dtype, settings
        return y, stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dstream: Tensor) -> tuple[Tensor | None, ...]:
        stream, weight, stats = ctx.saved_tensors
        dx, dweight, dbias = _gradients(ctx, dy, dstream, stream, weight, stats)
        return (dx, dx, dweight, dbias, *[None] * len(Settings._fields))


def _gradients(
    ctx: Any, dy: Tensor, dstream: Tensor | None, x: Tensor, weight: Tensor | None, stats: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, dgamma and dbeta, in the types of x, gamma and beta; None for a gamma or beta that is not there."""
    dx, dweight, dbias = norm_backward(dy, dstream, x, weight, stats, ctx.bias is not None, *ctx.settings)
    return dx, None if weight is None else dweight.to(weight.dtype), None if ctx.bias is None else dbias.to(ctx.bias)


def _implementation(x: Tensor) -> Any:
    """Triton on a GPU and in its interpreter, plain PyTorch elsewhere."""
    if x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        from . import launch

        return launch
    from . import reference

    return reference


def _contiguous_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _stats_like(x: Tensor, settings: tuple[Any, ...]) -> Tensor:
    count = slots(Settings(*settings), x.dtype != torch.float32).count
    return x.new_empty((count, x.shape[0]), dtype=torch.float32)


def _custom_op(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Define the function as the op ``ibnorm::<its name>`` for every device, with its fake function.

    By the plain registration of ``torch.library``: a call of an op from its ``custom_op`` decorator costs about twice the
    time on the host (26 against 14 us on a CPU), and a small norm on a GPU is bound by the host.
    """

    def define(function: Callable[..., Any]) -> Any:
        name = f"ibnorm::{function.__name__}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "CompositeExplicitAutograd", function)
        torch.library.register_fake(name, fake)
        return getattr(torch.ops.ibnorm, function.__name__).default

    return define


def _fake_forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any) -> tuple[Tensor, Tensor]:
    return _contiguous_like(x), _stats_like(x, settings)


def _fake_add_forward(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _contiguous_like(x), _contiguous_like(x), _stats_like(x, settings)


def _fake_backward(
    dy: Tensor, dstream: Tensor | None, x: Tensor, weight: Tensor | None, stats: Tensor, bias: bool, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [0 if weight is None else x.shape[1], x.shape[1] if bias else 0]
    return _contiguous_like(x), *(x.new_empty(size, dtype=torch.float32) for size in sizes)


@_custom_op(_fake_forward)
def norm_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    compression: str,
    lam: float,
    gain: float,
    eps: float,
    relative: bool,
    center: bool,
) -> tuple[Tensor, Tensor]:
    """y ``[n, d]`` and the rows' statistics ``[slots, n]``."""
    settings = Settings(compression, lam, gain, eps, relative, center)
    y, _, stats = _implementation(x).forward(x, None, weight, bias, settings)
    return y, stats


@_custom_op(_fake_add_forward)
def add_norm_forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    compression: str,
    lam: float,
    gain: float,
    eps: float,
    relative: bool,
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y ``[n, d]``, x + residual ``[n, d]``, and the rows' statistics ``[slots, n]``."""
    settings = Settings(compression, lam, gain, eps, relative, center)
    return _implementation(x).forward(x, residual, weight, bias, settings)


@_custom_op(_fake_backward)
def norm_backward(
    dy: Tensor,
    dstream: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    bias: bool,
    compression: str,
    lam: float,
    gain: float,
    eps: float,
    relative: bool,
    center: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx ``[n, d]``, dgamma and dbeta ``[d]`` in float32 (of no elements where there is no gamma or no ``bias``)."""
    settings = Settings(compression, lam, gain, eps, relative, center)
    dx, *sums = _implementation(x).backward(dy, dstream, x, weight, stats, bias, settings)
    dweight, dbias = (x.new_empty(0, dtype=torch.float32) if one is None else one for one in sums)
    return dx, dweight, dbias
