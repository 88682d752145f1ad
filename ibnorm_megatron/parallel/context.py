"""Context parallelism: the tokens of a sequence spread over ranks, and the exchanges that attention then needs.

A sequence is cut into 2 n runs for n ranks; rank r has run r and run 2n - 1 - r, one early and one late, so that causal
attention is the same work for all (the zig-zag layout of Megatron-core, whose rotary embedding follows it).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def own_tokens(whole: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This rank's tokens of a tensor that has them all along ``dim``, the early run first."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if ranks == 1:
        return whole
    runs = whole.chunk(2 * ranks, dim=dim)
    return torch.cat([runs[rank], runs[2 * ranks - 1 - rank]], dim=dim)


def gather_tokens(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All tokens in their order, from each rank's: ``[s / n, ...]`` to ``[s, ...]``. Its gradient sums over the ranks."""
    return _GatherTokens.apply(own, group)  # type: ignore[no-any-return]


def tokens_for_heads(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All tokens of a share of the heads, from all heads of a share of the tokens.

    ``[s / n, b, heads, d]`` to ``[s, b, heads / n, d]``, as in DeepSpeed-Ulysses (arXiv 2309.14509).
    """
    return _TokensForHeads.apply(own, group)  # type: ignore[no-any-return]


def heads_for_tokens(whole: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The inverse of :func:`tokens_for_heads`."""
    return _HeadsForTokens.apply(whole, group)  # type: ignore[no-any-return]


def _in_order(gathered: Tensor, ranks: int) -> Tensor:
    """From the order of the ranks, each with its two runs, to the order of the tokens."""
    runs = gathered.unflatten(0, (2 * ranks, -1))
    order = [2 * run if run < ranks else 2 * (2 * ranks - 1 - run) + 1 for run in range(2 * ranks)]
    return runs[order].flatten(0, 1)


def _by_rank(whole: Tensor, ranks: int) -> Tensor:
    """The inverse of :func:`_in_order`."""
    runs = whole.unflatten(0, (2 * ranks, -1))
    order = [run for rank in range(ranks) for run in (rank, 2 * ranks - 1 - rank)]
    return runs[order].flatten(0, 1)


class _GatherTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        ranks = dist.get_world_size(group)
        gathered = own.new_empty(ranks * own.size(0), *own.shape[1:])
        dist.all_gather_into_tensor(gathered, own.contiguous(), group=group)
        return _in_order(gathered, ranks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ranks = dist.get_world_size(ctx.group)
        own = gradient.new_empty(gradient.size(0) // ranks, *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, _by_rank(gradient, ranks), group=ctx.group)
        return own, None


def _exchange_heads(own: Tensor, group: dist.ProcessGroup) -> Tensor:
    ranks = dist.get_world_size(group)
    to_send = torch.stack(own.chunk(ranks, dim=2))  # [n, s / n, b, heads / n, d]
    received = torch.empty_like(to_send)
    dist.all_to_all_single(received, to_send, group=group)
    return _in_order(received.flatten(0, 1), ranks)


def _exchange_tokens(whole: Tensor, group: dist.ProcessGroup) -> Tensor:
    ranks = dist.get_world_size(group)
    to_send = _by_rank(whole, ranks)
    received = torch.empty_like(to_send)
    dist.all_to_all_single(received, to_send, group=group)
    return torch.cat(received.chunk(ranks), dim=2)


class _TokensForHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchange_heads(own, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _exchange_tokens(gradient, ctx.group), None


class _HeadsForTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchange_tokens(whole, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _exchange_heads(gradient, ctx.group), None
