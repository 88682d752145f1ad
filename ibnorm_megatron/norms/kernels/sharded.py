"""IBNorm over a sharded hidden dimension with fused stages: the kernels of :mod:`shards` between the all-reduces.

The counterpart of :class:`ibnorm_megatron.norms.sharded.ShardedIBNorm` for GPUs, with the same sums and the same number of
collectives: two forward, one backward. What is computed from a row's sums is a handful of float64 numbers a row, and plain
PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..plan import Plan
from . import shards
from .folding import Settings, fold, slots
from .launch import FEWER_THREAD_ELEMENTS, Launch, constants_of, is_fast, parameter_launch, strided_rows, tile_of, warps_of

_WIDEST_TILE = 4096


class FusedShardedIBNorm(torch.autograd.Function):
    """``apply(x, weight, bias, plan, process_group)`` with x ``[..., d_local]``, weight and bias ``[d_local]`` or None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan, group: dist.ProcessGroup
    ) -> Tensor:
        rows = strided_rows(x.reshape(-1, x.shape[-1]))
        settings = Settings.of(plan)
        folded, places = fold(settings, is_fast(x)), slots(settings, is_fast(x))
        n_rows = rows.shape[0]

        sums = rows.new_full((3, n_rows), rows.shape[1], dtype=torch.float64)
        moments_launch(rows, sums).run()
        dist.all_reduce(sums, group=group)
        width, mean = sums[0], sums[1] / sums[0]
        if not plan.center:
            mean = torch.zeros_like(mean)
        stats = rows.new_empty((places.count, n_rows), dtype=torch.float32)
        if plan.center:
            stats[0] = mean
            if not is_fast(x):
                stats[1] = mean - stats[0]
        if plan.relative:
            stats[places.scale] = (sums[2] / width - mean.square()).clamp_min_(0).add_(plan.eps).rsqrt_()

        sums = rows.new_empty((6 if plan.relative else 4, n_rows), dtype=torch.float64)
        stage_launch(shards.compressed_sums, rows, stats, settings, sums=sums).run()
        dist.all_reduce(sums, group=group)
        means = sums / width
        mean_h = means[0] if places.mean_h >= 0 else torch.zeros_like(width)
        rho = (means[1] - mean_h.square()).clamp_min_(0).add_(folded.eps_h).rsqrt_()
        if places.mean_h >= 0:
            stats[places.mean_h] = mean_h
        stats[places.rho] = rho

        y = torch.empty_like(rows, memory_format=torch.contiguous_format)
        stage_launch(shards.write, rows, stats, settings, weight=weight, bias=bias, y=y).run()
        # The whole width, <s>, <z s> and, for the relative scale, <s c>, <z s c>: what backward needs of forward's sums.
        kept = [width]
        for at in range(2, len(means), 2):
            kept += [means[at], rho * (means[at + 1] - mean_h * means[at])]
        ctx.save_for_backward(x, weight, stats, torch.stack(kept))
        ctx.bias, ctx.settings, ctx.group = None if bias is None else bias.dtype, settings, group
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, weight, stats, kept = ctx.saved_tensors
        settings: Settings = ctx.settings
        rows, dy = (strided_rows(t.reshape(-1, x.shape[-1])) for t in (x, dy))
        sums = kept.new_empty((4 if settings.relative else 3, rows.shape[0]))
        stage_launch(shards.gradient_sums, rows, stats, settings, dy=dy, weight=weight, sums=sums).run()
        dist.all_reduce(sums, group=ctx.group)

        sums = sums / kept[0]
        means = rows.new_zeros((4, rows.shape[0]), dtype=torch.float32)  # of w, w z, p and p c
        mean_w = sums[0] if settings.center else torch.zeros_like(kept[0])
        means[0], means[1] = mean_w, sums[1]
        if settings.center:
            means[2] = sums[2] - mean_w * kept[1] - sums[1] * kept[2]
        if settings.relative:
            means[3] = sums[3] - mean_w * kept[3] - sums[1] * kept[4]
        dx = torch.empty_like(rows, memory_format=torch.contiguous_format)
        stage_launch(shards.gradient_write, rows, stats, settings, dy=dy, weight=weight, means=means, dx=dx).run()
        parameters = parameter_launch(dy, rows, weight, stats, ctx.bias is not None, settings)
        parameters.run()
        dweight, dbias = parameters.parameter_gradients()
        dweight = None if weight is None else dweight.to(weight.dtype)
        return dx.view(x.shape), dweight, None if dbias is None else dbias.to(ctx.bias), None, None


def moments_launch(x: Tensor, sums: Tensor) -> Launch:
    """The launch that adds up x ``[n, d_local]`` and its squares into ``sums[1:]`` of float64 ``[3, n]``."""
    arguments = _shape(x) | {"sums": sums, "inv_width": 1.0 / x.shape[1]}
    return _tiled(shards.moments, x, arguments, {}, columns=False)


def stage_launch(kernel: Any, x: Tensor, stats: Tensor, settings: Settings, **tensors: Tensor | None) -> Launch:
    """The launch of one of the later stages on x ``[n, d_local]``; ``tensors`` are those that this kernel has besides x."""
    folded = fold(settings, is_fast(x))
    arguments = _shape(x) | {"stats": stats, "inv_lam": folded.inv_lam} | tensors
    constants = constants_of(x, settings)
    for name in ("weight", "bias"):
        if name in tensors:
            constants[name.upper()] = tensors[name] is not None
    if "dy" in tensors:
        arguments["dy_stride"] = tensors["dy"].stride(0)
    if "dx" in tensors:
        arguments["chain"] = folded.chain
    return _tiled(kernel, x, arguments, constants, columns="sums" not in tensors)


def _shape(x: Tensor) -> dict[str, Any]:
    return {"x": x, "x_stride": x.stride(0), "n_rows": x.shape[0], "width": x.shape[1]}


def _tiled(kernel: Any, x: Tensor, arguments: dict[str, Any], constants: dict[str, Any], *, columns: bool) -> Launch:
    """A kernel that walks a row's columns itself, or with ``columns`` one whose grid has a second axis for them."""
    n_rows, width = x.shape
    block, rows = tile_of(min(width, _WIDEST_TILE))
    constants = {**constants, "EVEN": width % block == 0, "ROWS": rows, "BLOCK": block}
    grid = (triton.cdiv(n_rows, rows), triton.cdiv(width, block) if columns else 1)
    return Launch(kernel, grid, arguments, constants, warps_of(rows * block, FEWER_THREAD_ELEMENTS))
