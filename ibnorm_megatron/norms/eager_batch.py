"""IBNorm with statistics of every channel over batch and space, in plain PyTorch.

For every channel, with means over batch and space, c = x - mean(x), u = c (or c / sqrt(mean(c^2) + eps) for the relative
scale), v = u / lambda and g = G phi(v), where G is lambda in the unit-slope form and 1 in the literal one:

    y = gamma (g - mean(g)) / sqrt(var(g) + eps) + beta

So y = BatchNorm(g): the standardization and its gradient are PyTorch's fused ``native_batch_norm`` and its backward, and only
the compression's chain rule is written here. With dg the gradient that comes back from BatchNorm and q = dg * g'(u):

    absolute:  dx = q - mean(q)
    relative:  dx = r * (q - mean(q) - u * mean(q u)),   r = 1 / sqrt(mean(c^2) + eps)
    lambda:    dL/dlambda = (sum(dg g) - sum(q u)) / lambda, without the first sum in the literal form

With running statistics in the place of those of the batch, these are constants, and dx = q, or r q. g'(0) is f'(0), so exact
zeros of c get the gradient that they should. Only x, gamma and a few numbers a channel are kept for backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .eager import Curve
from .plan import Plan, accumulation_dtype


class Statistics(NamedTuple):
    """Of every channel, ``[c]`` each. As estimates of a population they are unbiased, as PyTorch's running variance is.

    Attributes:
        mean: of x.
        square: of c = x - mean, the mean square; None for the absolute scale, which does not need it.
        compressed_mean: of g.
        variance: of g.
    """

    mean: Tensor
    square: Tensor | None
    compressed_mean: Tensor
    variance: Tensor


class EagerIBBatchNorm(torch.autograd.Function):
    """``apply(x, weight, bias, lam, plan, running)``: x ``[n, c, ...]``, weight and bias ``[c]`` or None.

    lam is None where the plan's number is lambda, or a tensor ``[1]`` that stands for it and gets a gradient. ``running`` holds
    Statistics to norm by, of the type that statistics of x need, or None for those of the batch. Returns y, of x's shape and
    type, and the four of the batch's Statistics, which get no gradient (or None for all four).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        lam: Tensor | None,
        plan: Plan,
        running: Statistics | None,
    ) -> tuple[Tensor | None, ...]:
        dtype = accumulation_dtype(x)
        curve = Curve.of(plan, lam, dtype, fold=False)
        wide_x = x.to(dtype)
        high, low, square = _deviations(wide_x, plan, running)
        scale = None if square is None else (square + plan.eps).rsqrt()
        g, _, _ = curve.value(_ratio(wide_x, high, low, scale, curve))
        gamma, beta = (None if one is None else one.to(dtype) for one in (weight, bias))
        if running is None:
            # With a momentum of 1 these become the batch's own mean and unbiased variance.
            center, variance = (torch.zeros(x.shape[1], dtype=dtype, device=x.device) for _ in range(2))
        else:
            center, variance = running.compressed_mean, running.variance
        y, mean_g, rho = torch.native_batch_norm(g, gamma, beta, center, variance, running is None, 1.0, curve.eps)
        ctx.save_for_backward(x, weight, lam, high, low, scale, center, variance, mean_g, rho)
        ctx.plan, ctx.batch, ctx.bias_dtype = plan, running is None, None if bias is None else bias.dtype
        y = y.to(x.dtype)
        if running is not None:
            return y, None, None, None, None
        number = x.numel() // x.shape[1]
        # A clone, because backward must find what it saved whatever is done to the statistics.
        found = Statistics(
            (high + low).flatten(),
            None if square is None else square.flatten() * (number / max(1, number - 1)),
            center.clone(),
            variance.clone(),
        )
        ctx.mark_non_differentiable(*(one for one in found if one is not None))
        return y, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, lam, high, low, scale, center, variance, mean_g, rho = ctx.saved_tensors
        plan, dtype = ctx.plan, accumulation_dtype(x)
        curve = Curve.of(plan, lam, dtype, fold=False)
        v = _ratio(x.to(dtype), high, low, scale, curve)
        g, h, kept = curve.value(v)
        gamma = curve.scaled(None if weight is None else weight.to(dtype), v.new_ones(x.shape[1]))
        mask = [True, weight is not None, ctx.bias_dtype is not None]
        dg, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy.to(dtype), g, gamma, center, variance, mean_g, rho, ctx.batch, curve.eps, mask
        )
        # dL/dlambda = (sum(dg phi) - sum(q v)), where dg and q hold already what turns a gradient of v into one of u.
        along = _dot(dg, h) if lam is not None and plan.unit_slope else 0.0
        q = curve.odd.chain(dg, v, kept)
        dlam = None if lam is None else (along - _dot(q, v)).reshape(1).to(lam.dtype)
        dx = _through_centring(q, v, scale, curve) if ctx.batch else (q if scale is None else q * scale)
        return (
            dx.to(x.dtype),
            dweight.to(weight.dtype) if mask[1] else None,
            dbias.to(ctx.bias_dtype) if mask[2] else None,
            dlam,
            None,
            None,
        )


def _deviations(x: Tensor, plan: Plan, running: Statistics | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The mean of x as an unevaluated sum high + low, and the mean square of c where it is needed, ``[1, c, 1, ...]`` each.

    A rounded mean is off by up to its last bit, and an error of the mean is a first-order error of g.
    """
    if running is not None:
        square = None if running.square is None else _along_channels(running.square, x)
        return _along_channels(running.mean, x), None, square
    high = _mean(x)
    c = x - high
    low = _mean(c)
    # low is a rounding error beside c, so nothing cancels.
    return high, low, _mean(c.square()).addcmul_(low, low, value=-1) if plan.relative else None


def _ratio(x: Tensor, high: Tensor, low: Tensor | None, scale: Tensor | None, curve: Curve) -> Tensor:
    """v = (x - high - low) * scale * factor, a new tensor."""
    c = x - high
    if low is not None:
        c = c.sub_(low)
    return c.mul_(curve.factor if scale is None else scale * curve.factor)


def _through_centring(q: Tensor, v: Tensor, scale: Tensor | None, curve: Curve) -> Tensor:
    """The gradient of x from that of u, q, where mean and mean square are the batch's."""
    if scale is None:
        return q - _mean(q)
    # r (q - mean(q) - u mean(q u)), and u mean(q u) = v mean(q v) / factor^2
    mean_qv = _mean(q * v).div_(curve.factor).div_(curve.factor)
    return (q - _mean(q)).addcmul_(v, mean_qv, value=-1).mul_(scale)


def _mean(x: Tensor) -> Tensor:
    """Of every channel, ``[1, c, 1, ...]``."""
    return x.mean([0, *range(2, x.dim())], keepdim=True)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    """Values ``[c]`` so that they meet x's channels."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """sum(a b), whose addends cancel: added up in float64."""
    return (a * b).sum(dtype=torch.float64)
