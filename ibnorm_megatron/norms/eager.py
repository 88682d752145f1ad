"""IBNorm in plain PyTorch, for a row that lies whole on one device.

With c = x - mean(x), u = c (or c / sqrt(mean(c^2) + eps) for the relative scale), v = u / lambda and g = G phi(v), where G
is lambda in the unit-slope form and 1 in the literal one:

    z = (g - mean(g)) * rho,   rho = 1 / sqrt(var(g) + eps),   y = gamma * z + beta

mean(x) cancels in the standardization, so y = LayerNorm(g): the standardization and its gradient are PyTorch's fused
``native_layer_norm`` and its backward, and only the compression's chain rule is written here. With dg the gradient that
comes back from LayerNorm and q = dg * g'(u):

    absolute:  dx = q - mean(q)
    relative:  dx = r * (q - mean(q) - u * mean(q u)),   r = 1 / sqrt(mean(c^2) + eps)
    lambda:    dL/dlambda = (sum(dg g) - sum(q u)) / lambda, without the first sum in the literal form

Without centring, every "- mean" above falls away and the variance becomes the mean square.

On a CPU every pass over memory costs as much as the arithmetic, so rows are taken a block at a time, small enough to stay in
the core's cache through all passes, and factors that are the same for all elements ride along: G in eps, since
LayerNorm(G h; eps) = LayerNorm(h; eps / G^2), and 1 / lambda of the gradient in gamma.

Only x, gamma and 16 bytes of statistics a row (20 for the relative scale) are kept for backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .compression import Odd
from .plan import Plan, accumulation_dtype

#: Elements of a block of rows for each thread: 512 KiB in float32, of which a pass touches two or three. Measured best on a
#: core with 2 MiB of cache: a quarter loses a third to the calls, and all rows at once lose to memory.
_BLOCK_ELEMENTS = 131_072

#: An eps / G^2 below this, or above its inverse, would meet the ends of float32; G is then multiplied with.
_SMALLEST_EPS = 1e-30


class EagerIBNorm(torch.autograd.Function):
    """``apply(x, weight, bias, lam, plan)``: x ``[..., d]``, weight and bias ``[d]`` or None; returns y ``[..., d]``.

    lam is None where the plan's number is lambda, or a tensor ``[1]`` that stands for it and gets a gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, lam: Tensor | None, plan: Plan) -> Tensor:
        dtype = accumulation_dtype(x)
        curve = Curve.of(plan, lam, dtype)
        gamma, beta = _as(weight, dtype), _as(bias, dtype)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        height = _block_height(rows)
        if height >= rows.shape[0]:
            y, stats = _forward(rows.to(dtype), gamma, beta, plan, curve)
            y = y.to(x.dtype)
        else:
            y, of_blocks = torch.empty_like(rows), []
            for of_x, of_y in zip(rows.split(height), y.split(height), strict=True):
                wide, of_block = _forward(of_x.to(dtype), gamma, beta, plan, curve)
                of_y.copy_(wide)
                of_blocks.append(of_block)
            stats = torch.cat(of_blocks, dim=1)
        ctx.save_for_backward(x, weight, lam, stats)
        ctx.plan, ctx.bias_dtype = plan, None if bias is None else bias.dtype
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, lam, stats = ctx.saved_tensors
        dtype = accumulation_dtype(x)
        curve = Curve.of(ctx.plan, lam, dtype)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        dx = torch.empty_like(rows)
        gamma = curve.scaled(_as(weight, dtype), rows.new_ones(rows.shape[-1:], dtype=dtype))
        types = [None if weight is None else weight.dtype, ctx.bias_dtype, None if lam is None else lam.dtype]
        wanted = [kind is not None for kind in types]
        height, sums = _block_height(rows), []
        blocks = [tensor.split(height, dim=-2) for tensor in (dy.reshape(rows.shape), rows, dx)]
        for of_dy, of_x, of_dx, of_stats in zip(*blocks, stats.split(height, dim=1), strict=True):
            sums.append(_backward(of_dy.to(dtype), of_x.to(dtype), of_stats, gamma, of_dx, wanted, ctx.plan, curve))
        totals = [
            None if kind is None else torch.stack(parts).sum(0).to(kind) for kind, *parts in zip(types, *sums, strict=True)
        ]
        return dx.view(x.shape), *totals, None


@dataclass(frozen=True)
class Curve:
    """The compression as LayerNorm or BatchNorm sees it: ``multiplier * phi(factor * u)``, with ``eps`` inside the root.

    ``factor`` and ``multiplier`` are numbers, or tensors ``[1]`` where lambda is one.
    """

    odd: Odd
    factor: float | Tensor
    multiplier: float | Tensor
    eps: float

    @staticmethod
    def of(plan: Plan, lam: Tensor | None, dtype: torch.dtype, *, fold: bool = True) -> Curve:
        """That of a plan; ``fold`` takes a multiplier into eps, where what is standardized is nobody else's business."""
        if lam is not None:
            lam = lam.to(dtype)
            gain = lam / plan.compression.slope_at_zero(1.0) if plan.unit_slope else 1.0
            return Curve(plan.compression.of_ratio_odd(), lam.reciprocal(), gain, plan.eps)
        odd, factor = plan.compression.fixed_odd(plan.lam)
        folded = plan.eps / plan.gain**2
        if fold and _SMALLEST_EPS < folded < 1 / _SMALLEST_EPS:
            return Curve(odd, factor, 1.0, folded)
        return Curve(odd, factor, plan.gain, plan.eps)

    def scaled(self, weight: Tensor | None, ones: Tensor) -> Tensor:
        """gamma ``[d]`` times what every gradient is multiplied by on its way from LayerNorm's input to u."""
        return (ones if weight is None else weight) * (self.factor * self.multiplier)

    def value(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """LayerNorm's input, phi(v), and what the chain rule can use again."""
        h, kept = self.odd.value(v)
        return (h if isinstance(self.multiplier, float) and self.multiplier == 1.0 else h * self.multiplier), h, kept


def _block_height(rows: Tensor) -> int:
    """How many rows stay in cache together; all of them on a GPU, and where a compiler fuses the passes itself."""
    if torch.compiler.is_compiling() or rows.device.type != "cpu":
        return max(1, rows.shape[0])
    return max(1, _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, rows.shape[-1]))


def _forward(rows: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan, curve: Curve) -> tuple[Tensor, Tensor]:
    """y ``[n, d]`` of rows ``[n, d]``, and what backward needs, ``[k, n, 1]``: rho, the means, the scale."""
    c, low, stats = rows, None, []
    if plan.center:
        # The mean as an unevaluated sum high + low. A mean of 1e4 rounded to float32 is off by 5e-4, and an error of the
        # mean is a first-order error of g. The low part is the mean of what remains after the high part is subtracted.
        high = _mean(rows)
        c = rows - high
        low = _mean(c)
        stats = [high, low]
    scale = None
    if plan.relative:
        squares = _mean(c.square())
        if low is not None:
            squares = squares.addcmul_(low, low, value=-1)  # low is a rounding error beside c, so nothing cancels
        scale = squares.add_(plan.eps).rsqrt_()
        stats.append(scale)
    g, _, _ = curve.value(_ratio(c, low, scale, curve))
    if plan.center:
        y, mean_g, rho = torch.native_layer_norm(g, g.shape[-1:], weight, bias, curve.eps)
        return y, torch.stack([rho, mean_g, *stats])
    rho = _mean(g.square()).add_(curve.eps).rsqrt_()
    y = g * rho
    if weight is not None:
        y = y.mul_(weight)
    return y if bias is None else y.add_(bias), torch.stack([rho, *stats])


def _backward(
    dy: Tensor, rows: Tensor, stats: Tensor, gamma: Tensor, dx: Tensor, wanted: list[bool], plan: Plan, curve: Curve
) -> list[Tensor | None]:
    """Write dx ``[n, d]``; returns these rows' share of dgamma ``[d]``, dbeta ``[d]`` and dlambda ``[1]``, where wanted."""
    rho, *others = stats.unbind()
    scale = others.pop() if plan.relative else None
    mean_g, high, low = others if plan.center else (None, None, None)
    v = _ratio(rows if high is None else rows - high, low, scale, curve)
    g, h, kept = curve.value(v)
    if plan.center:
        mask = [True, wanted[0], wanted[1]]
        dg, dweight, dbias = torch.ops.aten.native_layer_norm_backward(dy, g, g.shape[-1:], mean_g, rho, gamma, gamma, mask)
    else:
        z, w = g.mul(rho), dy * gamma
        dg = w.addcmul_(z, _mean(w * z), value=-1).mul_(rho)
        dweight = z.mul_(dy).sum(0) if wanted[0] else None
        dbias = dy.sum(0) if wanted[1] else None
    # dL/dlambda = (sum(dg phi) - sum(q v)), where dg and q hold already what turns a gradient of v into one of u.
    along = _dot(dg, h) if wanted[2] and plan.unit_slope else 0.0
    q = curve.odd.chain(dg, v, kept)
    dlam = (along - _dot(q, v)).reshape(1) if wanted[2] else None
    if scale is not None:
        # r (q - mean(q) - u mean(q u)), and u mean(q u) = v mean(q v) / factor^2
        mean_qv = _mean(q * v).div_(curve.factor).div_(curve.factor)
        q_mean = _mean(q) if plan.center else None
        q = q.addcmul_(v, mean_qv, value=-1)
        q = q if q_mean is None else q.sub_(q_mean)
        _write(dx, torch.mul, q, scale)
    elif plan.center:
        _write(dx, torch.sub, q, _mean(q))
    else:
        dx.copy_(q)
    return [dweight if wanted[0] else None, dbias if wanted[1] else None, dlam]


def _ratio(c: Tensor, low: Tensor | None, scale: Tensor | None, curve: Curve) -> Tensor:
    """v = (c - low) * scale * factor in one pass, a new tensor ``[n, d]``."""
    factor = curve.factor if scale is None else scale * curve.factor
    if low is None:
        return c * factor
    shift = low * -factor
    out = None if torch.compiler.is_compiling() else c  # which is nobody else's
    return (
        torch.addcmul(shift, c, factor, out=out) if isinstance(factor, Tensor) else torch.add(shift, c, alpha=factor, out=out)
    )


def _write(out: Tensor, operation: Callable[..., Tensor], a: Tensor, b: Tensor) -> None:
    """out = operation(a, b), rounded to out's type."""
    if a.dtype == out.dtype and not torch.compiler.is_compiling():
        operation(a, b, out=out)
    else:
        out.copy_(operation(a, b))


def _mean(values: Tensor) -> Tensor:
    """As values.mean(-1, keepdim=True), which takes twice as long for a block."""
    return values.sum(-1, keepdim=True).mul_(1.0 / max(1, values.shape[-1]))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """sum(a b), whose addends cancel: rows in their own type, all rows in float64."""
    return (a * b).sum(-1).sum(dtype=torch.float64)


def _as(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.to(dtype)
