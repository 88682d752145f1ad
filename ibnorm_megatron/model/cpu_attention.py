"""Causal attention of short sequences on a CPU, as plain matrix products over blocks of queries.

PyTorch's attention for CPUs never writes the probabilities down and works in tiles small enough for that; its backward pass
makes them again. For sequences of a few hundred tokens they are small, and a batched product of whole blocks runs at the
speed of any other product, most of all in bfloat16 on processors with matrix units (AMX). A block of queries sees only the keys
up to its own end, so that most of what causality forbids is not computed. What other documents forbid is computed and then
taken back: that costs 2 to 9 % more than no documents do, and is less than PyTorch's attention takes with a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .documents import document_numbers

#: Longest sequence that is taken. Up to here this took 0.4 to 0.8 of the time of PyTorch's attention, forward and backward; at
#: 1,024 tokens the two were equal, and the probabilities that are kept grow with the square.
MOST_TOKENS = 512

#: Queries of a block: as fast as any, and with 512 tokens it leaves out three eighths of the scores.
_BLOCK = 128


def can_take(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether :func:`block_attention` is for this: on a CPU, float32 or bfloat16, short, a key a query, no dropout."""
    on_cpu = query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16)
    return on_cpu and query.size(0) == key.size(0) <= MOST_TOKENS and dropout == 0.0


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None, ends: Tensor | None = None
) -> Tensor:
    """Causal softmax attention.

    Args:
        query: ``[s, b, heads, head_dim]``.
        key, value: ``[s, b, kv_heads, head_dim]``; every key head serves as many query heads.
        dropout: 0; the argument is there because other kernels take it.
        scale: of the scores; None is ``head_dim ** -0.5``.
        ends: of documents, ``[b, d]`` (:mod:`.documents`), which attention then keeps to.

    Returns:
        ``[s, b, heads, head_dim]``. In bfloat16 the scores are rounded to it, as in Megatron-core's own attention: the output's
        error is twice that of PyTorch's, and five times with scores of standard deviation 4.
    """
    assert dropout == 0.0, "probabilities are never dropped here"
    if (group := query.size(2) // key.size(2)) > 1:
        key, value = (t.repeat_interleave(group, dim=2) for t in (key, value))
    # [b * heads, s, head_dim]: a copy, which costs less than products of rows that lie apart.
    rows = (t.permute(1, 2, 0, 3).reshape(-1, t.size(0), t.size(3)) for t in (query, key, value))
    output, _ = _forward(*rows, query.size(3) ** -0.5 if scale is None else scale, ends)
    return output.view(*query.shape[1:3], query.size(0), query.size(3)).permute(2, 0, 1, 3)


# Custom operators, because torch.compile would break a layer's graph at products that are written into a part of a tensor.


@torch.library.custom_op("ibnorm::block_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """q, k, v ``[n, s, d]`` to ``[n, s, d]`` and the probabilities, block after block: ``[n * _pairs(s)]``."""
    output, kept = torch.empty_like(q), q.new_empty(q.size(0) * _pairs(q.size(1)))
    transposed = k.transpose(1, 2)
    mask = torch.full((_BLOCK, _BLOCK), float("-inf"), dtype=q.dtype).triu(1)
    numbers = None if ends is None else document_numbers(ends, q.size(1))
    for (start, end), p in zip(_blocks(q.size(1)), _by_block(kept, *q.shape[:2]), strict=True):
        scores = torch.bmm(q[:, start:end], transposed[:, :, :end]).mul_(scale)
        scores[:, :, start:].add_(mask[: end - start, : end - start])
        if numbers is not None:
            _hide_other_documents(scores, numbers[:, start:end], numbers[:, :end])
        torch.softmax(scores, -1, out=p)
        torch.bmm(p, v[:, :end], out=output[:, start:end])
    return output, kept


@torch.library.custom_op("ibnorm::block_attention_backward", mutates_args=())
def _backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, each ``[n, s, d]``."""
    dy, transposed = dy.contiguous(), v.transpose(1, 2)
    dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
    # From the last block, which sees all keys and so writes what the others add to.
    for (start, end), p in reversed(list(zip(_blocks(q.size(1)), _by_block(kept, *q.shape[:2]), strict=True))):
        beta = 0 if end == q.size(1) else 1
        dp = torch.bmm(dy[:, start:end], transposed[:, :, :end])
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        _add_product(dv[:, :end], p.transpose(1, 2), dy[:, start:end], beta, 1.0)
        _add_product(dk[:, :end], ds.transpose(1, 2), q[:, start:end], beta, scale)
        _add_product(dq[:, start:end], ds, k[:, :end], 0, scale)
    return dq, dk, dv


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.size(0) * _pairs(q.size(1)))


@_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.scale = inputs[3]


def _differentiate(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None, None]:
    # No word of documents: the probability of what is hidden is 0, and so is its gradient.
    return *_backward(dy, *ctx.saved_tensors, ctx.scale), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _hide_other_documents(scores: Tensor, of_queries: Tensor, of_keys: Tensor) -> None:
    """scores ``[b * heads, queries, keys]``; numbers of documents ``[b, queries]`` and ``[b, keys]``."""
    others = of_queries[:, :, None] != of_keys[:, None]
    # Added and not filled in: a mask that all heads share is slow to fill by, and quick to add.
    hidden = torch.zeros(others.shape, dtype=scores.dtype).masked_fill_(others, float("-inf"))
    scores.unflatten(0, (len(others), -1)).add_(hidden[:, None])


def _add_product(out: Tensor, a: Tensor, b: Tensor, beta: int, alpha: float) -> None:
    """out = beta out + alpha a b, batch by batch; with beta 0 it does not matter what is in out."""
    torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)


def _blocks(tokens: int) -> list[tuple[int, int]]:
    """First query and end of every block; its keys are all up to that end."""
    return [(start, min(start + _BLOCK, tokens)) for start in range(0, tokens, _BLOCK)]


def _pairs(tokens: int) -> int:
    """Queries with the keys of their blocks."""
    return sum((end - start) * end for start, end in _blocks(tokens))


def _by_block(kept: Tensor, n: int, tokens: int) -> list[Tensor]:
    """The probabilities of every block, ``[n, queries, keys]``, as views."""
    sizes = [(n, end - start, end) for start, end in _blocks(tokens)]
    parts = kept.split([rows * queries * keys for rows, queries, keys in sizes])
    return [part.view(size) for part, size in zip(parts, sizes, strict=True)]
