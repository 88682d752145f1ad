"""IBNorm for a row whose hidden dimension is sharded over a process group.

Every rank holds its slice of x, gamma and beta; y, dx, dgamma and dbeta stay sharded the same way. Statistics travel as
per-row sums, in float64: a handful of numbers a row, and then no cancellation of sum(x^2) - n mean^2 can matter.

Forward needs two all-reduces, because g depends on the mean: {n, sum x[, sum x^2]}, then the sums over g and g'.
Backward needs one. With w = gamma dy, z the standardized g, and <.> the mean over the whole row,

    q = rho (w - <w> - z <w z>) g'        <q>  = rho (<w g'> - <w> <g'> - <w z> <z g'>)
    dx = q - <q>                          <qu> = rho (<w g' u> - <w> <g' u> - <w z> <z g' u>)   (relative scale)

so <q> follows from three sums over w and from sums that forward already has. Without centring <w> and <q> drop out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .plan import Plan, rows_of


class ShardedIBNorm(torch.autograd.Function):
    """``apply(x, weight, bias, lam, plan, process_group)`` with x ``[..., d_local]``, weight and bias ``[d_local]`` or None.

    lam is None where the plan's number is lambda, or a tensor ``[1]`` that stands for it; its gradient is that of this rank's
    columns, and the ranks' sum is the whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        lam: Tensor | None,
        plan: Plan,
        group: dist.ProcessGroup,
    ) -> Tensor:
        rows = rows_of(x)
        row_stats = _input_statistics(rows, plan, group)
        u, _ = _deviation(rows, row_stats, plan)
        g, slope = _compress(u, plan, lam)
        width = row_stats[:, :1]
        terms = [g, g * g, slope, g * slope] + ([slope * u, g * slope * u] if plan.relative else [])
        means = _all_reduce([_row_sum(term) for term in terms], group) / width
        mean_g = means[:, :1] if plan.center else torch.zeros_like(width)
        rho = (means[:, 1:2] - mean_g.square()).clamp_min_(0).add_(plan.eps).rsqrt_()
        z = (g - mean_g.to(g.dtype)) * rho.to(g.dtype)
        y = z if weight is None else z * weight.to(z.dtype)
        y = y if bias is None else y + bias.to(z.dtype)
        # <g'>, <z g'>, <g' u>, <z g' u>: what backward needs of forward's sums.
        kept = [means[:, 2:3], rho * (means[:, 3:4] - mean_g * means[:, 2:3])]
        if plan.relative:
            kept += [means[:, 4:5], rho * (means[:, 5:6] - mean_g * means[:, 4:5])]
        ctx.save_for_backward(x, weight, bias, lam, row_stats, torch.cat([mean_g, rho, *kept], dim=-1))
        ctx.plan, ctx.group = plan, group
        return y.to(x.dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, bias, lam, row_stats, kept = ctx.saved_tensors
        plan: Plan = ctx.plan
        rows = rows_of(x)
        u, scale = _deviation(rows, row_stats, plan)
        g, slope = _compress(u, plan, lam)
        mean_g, rho = kept[:, :1], kept[:, 1:2]
        z = (g - mean_g.to(g.dtype)) * rho.to(g.dtype)
        dy = dy.reshape(rows.shape).to(rows.dtype)
        w = dy if weight is None else dy * weight.to(dy.dtype)
        terms = [w, w * z, w * slope] + ([w * slope * u] if plan.relative else [])
        means = _all_reduce([_row_sum(term) for term in terms], ctx.group) / row_stats[:, :1]
        mean_w = means[:, :1] if plan.center else torch.zeros_like(rho)
        mean_wz = means[:, 1:2]
        dg = (w - mean_w.to(w.dtype) - z * mean_wz.to(w.dtype)) * rho.to(w.dtype)
        dx = q = dg * slope
        dlam = None
        if lam is not None:
            along = (dg * g).sum(dtype=torch.float64) if plan.unit_slope else 0.0
            dlam = ((along - (q * u).sum(dtype=torch.float64)) / lam).to(lam.dtype)
        if plan.center:
            mean_q = rho * (means[:, 2:3] - mean_w * kept[:, 2:3] - mean_wz * kept[:, 3:4])
            dx = dx - mean_q.to(q.dtype)
        if plan.relative:
            mean_qu = rho * (means[:, 3:4] - mean_w * kept[:, 4:5] - mean_wz * kept[:, 5:6])
            dx = (dx - u * mean_qu.to(q.dtype)) * scale
        dweight = None if weight is None else (dy * z).sum(0).to(weight.dtype)
        dbias = None if bias is None else dy.sum(0).to(bias.dtype)
        return dx.to(x.dtype).view(x.shape), dweight, dbias, dlam, None, None


def _input_statistics(rows: Tensor, plan: Plan, group: dist.ProcessGroup) -> Tensor:
    """Per row, in float64: the whole width, mean(x) and (relative scale) 1 / sqrt(mean(c^2) + eps); ``[rows, 3]``."""
    width = rows.new_full((rows.shape[0], 1), rows.shape[-1], dtype=torch.float64)
    # The local mean is refined before it leaves the rank, and the local second moment is taken about it.
    local = rows.mean(-1, keepdim=True)
    rest = rows - local
    total = local.double() * width + _row_sum(rest)
    squares = _row_sum(rest * rest) + local.double() * (2 * total - local.double() * width)
    sums = _all_reduce([width, total, squares, width * width], group)
    if rows.device.type == "cpu" and rows.shape[0]:  # on a GPU it would be a stop; there the layer has looked at its width
        _check_even(rows.shape[-1], sums[0], dist.get_world_size(group))
    width, mean = sums[:, :1], sums[:, 1:2] / sums[:, :1]
    if not plan.center:
        mean = torch.zeros_like(mean)
    scale = (sums[:, 2:3] / width - mean.square()).clamp_min_(0).add_(plan.eps).rsqrt_()
    return torch.cat([width, mean, scale], dim=-1)


def _check_even(local: int, sums: Tensor, ranks: int) -> None:
    """All ranks come to the same answer, so none waits for another that has raised.

    Raises:
        ValueError: the ranks' slices of a row differ in width.
    """
    total, squares = int(sums[0]), int(sums[3])
    if ranks * squares != total * total:
        mend = f"pad it to a multiple of {ranks}"
        raise ValueError(f"a row of {total} columns lies unevenly on {ranks} ranks, {local} of them on this one: {mend}")


def _deviation(rows: Tensor, row_stats: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """u ``[rows, d_local]`` and the relative scale's factor ``[rows, 1]``; mean subtracted in two parts, high and low."""
    mean, scale = row_stats[:, 1:2], row_stats[:, 2:3].to(rows.dtype)
    c = rows
    if plan.center:
        high = mean.to(rows.dtype)
        c = (rows - high).sub_((mean - high).to(rows.dtype))
    return (c * scale if plan.relative else c), scale


def _compress(u: Tensor, plan: Plan, lam: Tensor | None) -> tuple[Tensor, Tensor]:
    """g and dg/du, each of u's shape."""
    if lam is None:
        return plan.compress(u), plan.slope(u)
    lam = lam.to(u.dtype)
    gain = lam / plan.compression.slope_at_zero(1.0) if plan.unit_slope else torch.ones_like(lam)
    of_ratio = replace(plan, lam=1.0, gain=1.0)
    return of_ratio.compress(u / lam) * gain, of_ratio.slope(u / lam) * (gain / lam)


def _row_sum(values: Tensor) -> Tensor:
    return values.sum(-1, keepdim=True, dtype=torch.float64)


def _all_reduce(columns: list[Tensor], group: dist.ProcessGroup) -> Tensor:
    """Sum the columns, each ``[rows, 1]``, over the group in one collective; ``[rows, len(columns)]``."""
    packed = torch.cat(columns, dim=-1)
    dist.all_reduce(packed, group=group)
    return packed
