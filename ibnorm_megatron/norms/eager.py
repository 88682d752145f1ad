"""IBNorm in plain PyTorch, for a row that lies whole on one device.

With c = x - mean(x), u = c (or c / sqrt(mean(c^2) + eps) for the relative scale) and g = g(u):

    z = (g - mean(g)) * rho,   rho = 1 / sqrt(var(g) + eps),   y = gamma * z + beta

mean(x) cancels in the standardization, so y = LayerNorm(g): the standardization and its gradient are PyTorch's fused
``native_layer_norm`` and its backward, and only the compression's chain rule is written here. With dg the gradient that
comes back from LayerNorm and q = dg * g'(u):

    absolute:  dx = q - mean(q)
    relative:  dx = r * (q - mean(q) - u * mean(q u)),   r = 1 / sqrt(mean(c^2) + eps)

Without centring, every "- mean" above falls away and the variance becomes the mean square.

Only x, gamma and 16 bytes of statistics a row (20 for the relative scale) are kept for backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .plan import Plan, rows_of


class EagerIBNorm(torch.autograd.Function):
    """``apply(x, weight, bias, plan)`` with x ``[..., d]``, weight and bias ``[d]`` or None; returns y ``[..., d]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan) -> Tensor:
        rows = rows_of(x)
        mean_high, mean_low = _refined_mean(rows) if plan.center else (None, None)
        u, scale = _deviation(rows, mean_high, mean_low, None, plan)
        g = plan.compress(u)
        y, mean_g, rho = _standardize(g, _as(weight, g), _as(bias, g), plan)
        ctx.save_for_backward(x, weight, bias, mean_high, mean_low, scale, mean_g, rho)
        ctx.plan = plan
        return y.to(x.dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, bias, mean_high, mean_low, scale, mean_g, rho = ctx.saved_tensors
        plan: Plan = ctx.plan
        rows = rows_of(x)
        u, scale = _deviation(rows, mean_high, mean_low, scale, plan)
        g = plan.compress(u)
        dg, dweight, dbias = _standardize_backward(
            dy.reshape(rows.shape).to(rows.dtype), g, _as(weight, g), _as(bias, g), mean_g, rho, plan
        )
        q = dg.mul_(plan.slope(u))
        mean_qu = (q * u).mean(-1, keepdim=True) if plan.relative else None
        if plan.center:
            q = q.sub_(q.mean(-1, keepdim=True))
        if mean_qu is not None:
            q = q.addcmul_(u, mean_qu, value=-1).mul_(scale)
        return q.to(x.dtype).view(x.shape), _like(dweight, weight), _like(dbias, bias), None


def _refined_mean(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of every row as an unevaluated sum high + low, each ``[rows, 1]``.

    A mean of 1e4 rounded to float32 is off by 5e-4, and an error of the mean is a first-order error of g. The low part
    is the mean of what remains after the high part is subtracted.
    """
    high = rows.mean(-1, keepdim=True)
    return high, (rows - high).mean(-1, keepdim=True)


def _deviation(
    rows: Tensor, high: Tensor | None, low: Tensor | None, scale: Tensor | None, plan: Plan
) -> tuple[Tensor, Tensor | None]:
    """u ``[rows, d]``, what is compressed, and for the relative scale 1 / sqrt(mean(c^2) + eps) ``[rows, 1]``."""
    c = rows if high is None else (rows - high).sub_(low)
    if not plan.relative:
        return c, None
    if scale is None:
        scale = c.square().mean(-1, keepdim=True).add_(plan.eps).rsqrt_()
    return c * scale, scale


def _standardize(g: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor | None, Tensor]:
    """LayerNorm of g, or RMSNorm without centring: y ``[rows, d]``, mean(g) ``[rows, 1]`` or None, rho ``[rows, 1]``."""
    if plan.center:
        return torch.native_layer_norm(g, g.shape[-1:], weight, bias, plan.eps)
    rho = g.square().mean(-1, keepdim=True).add_(plan.eps).rsqrt_()
    y = g * rho
    if weight is not None:
        y = y.mul_(weight)
    if bias is not None:
        y = y.add_(bias)
    return y, None, rho


def _standardize_backward(
    dy: Tensor, g: Tensor, weight: Tensor | None, bias: Tensor | None, mean_g: Tensor | None, rho: Tensor, plan: Plan
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of :func:`_standardize` with respect to g, weight and bias."""
    if plan.center:
        wanted = [True, weight is not None, bias is not None]
        return torch.ops.aten.native_layer_norm_backward(dy, g, g.shape[-1:], mean_g, rho, weight, bias, wanted)
    z = g * rho
    w = dy if weight is None else dy * weight
    dg = (w - z * (w * z).mean(-1, keepdim=True)).mul_(rho)
    dweight = None if weight is None else (dy * z).sum(0)
    return dg, dweight, None if bias is None else dy.sum(0)


def _as(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)


def _like(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if gradient is None or parameter is None else gradient.to(parameter.dtype)
