"""Means over rows whose columns may be sharded over a process group, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def row_means(values: Sequence[Tensor], width: int, group: dist.ProcessGroup | None) -> list[Tensor]:
    """The mean of every whole row of each of several tensors ``[..., d]``: ``[..., 1]`` each, in one all-reduce.

    Args:
        values: this rank's columns.
        width: columns of a whole row.
        group: holds the other columns, or None.
    """
    sums = torch.cat([value.sum(-1, keepdim=True) for value in values], dim=-1)
    if group is not None:
        sums = _SumOverRanks.apply(sums, group)
    return list((sums / width).split(1, dim=-1))


class _SumOverRanks(torch.autograd.Function):
    """A sum over ranks that every rank uses for columns of its own, so that their gradients for it are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.contiguous().clone()  # gloo and nccl need it dense, and autograd does not allow it changed
    dist.all_reduce(total, group=group)
    return total
