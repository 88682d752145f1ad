"""What flash-attn promises of sequences of many lengths, in plain PyTorch, to stand in its place where there is no GPU."""

from __future__ import annotations

import itertools
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    deterministic: bool = False,
) -> Tensor:
    """q ``[queries, heads, d]``, k and v ``[keys, kv_heads, d]``; where counts differ the last query sees the last key."""
    assert causal and dropout_p == 0.0
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    for cu, rows in ((cu_seqlens_q, q), (cu_seqlens_k, k)):
        assert cu.dtype == torch.int32 and cu.dim() == 1 and cu.is_contiguous()
        assert int(cu[0]) == 0 and int(cu[-1]) == len(rows) and bool((cu.diff() >= 0).all())
    assert len(cu_seqlens_q) == len(cu_seqlens_k)
    group, scale = q.size(1) // k.size(1), q.size(2) ** -0.5 if softmax_scale is None else softmax_scale
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    outputs = []
    bounds = [itertools.pairwise(cu.tolist()) for cu in (cu_seqlens_q, cu_seqlens_k)]
    for (begin, end), (first, last) in zip(*bounds, strict=True):
        assert end - begin <= max_seqlen_q and last - first <= max_seqlen_k
        scores = torch.einsum("qhd,khd->hqk", q[begin:end], k[first:last]) * scale
        seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(last - first - (end - begin))
        assert begin == end or seen[0].any(), "a query without keys"
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v[first:last]))
    return torch.cat(outputs)


def install(patch: pytest.MonkeyPatch) -> None:
    """Have ``import flash_attn`` find this."""
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    module.flash_attn_func = None  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "flash_attn", module)


def documents_of(rows: int, tokens: int, seed: int = 0) -> Tensor:
    """Numbers of documents, int32 ``[rows, tokens]``: a row that one fills, one of single tokens, and cuts at random."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.tensor([(0.0, 0.15, 1.0, 0.03)[row % 4] for row in range(rows)])[:, None]
    begins = torch.rand(rows, tokens, generator=generator) < chances
    begins[:, 0] = False
    return begins.cumsum(1, dtype=torch.int32)
