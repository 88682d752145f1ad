"""Attention by blocks of products is softmax attention, at every length and grouping, and as exact as it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ibnorm_megatron.model.cpu_attention import MOST_TOKENS, block_attention, can_take


def _reference(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """From ``[s, b, heads, head_dim]`` and back, by the formula."""
    group = q.size(2) // k.size(2)
    k, v = (t.repeat_interleave(group, dim=2) for t in (k, v))
    scores = torch.einsum("sbhd,tbhd->bhst", q, k) * (q.size(3) ** -0.5 if scale is None else scale)
    future = torch.ones(q.size(0), q.size(0), dtype=torch.bool).triu(1)
    return torch.einsum("bhst,tbhd->sbhd", scores.masked_fill(future, float("-inf")).softmax(-1), v)


def _inputs(s: int, heads: int, kv_heads: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(s)
    sizes = [(s, 2, heads, 16), (s, 2, kv_heads, 16), (s, 2, kv_heads, 16), (s, 2, heads, 16)]
    *inputs, dy = (torch.randn(size, generator=generator, dtype=torch.float32).to(dtype) for size in sizes)
    return [t.requires_grad_() for t in inputs], dy


@pytest.mark.parametrize("s", [1, 2, 127, 128, 129, 300, MOST_TOKENS])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2), (4, 1)])
def test_it_is_softmax_attention(s: int, heads: int, kv_heads: int) -> None:
    (q, k, v), dy = _inputs(s, heads, kv_heads, torch.float32)
    output, expected = block_attention(q, k, v, 0.0, None), _reference(q.double(), k.double(), v.double())
    torch.testing.assert_close(output, expected.float(), rtol=1e-5, atol=2e-6)
    own, its = (torch.autograd.grad(y, (q, k, v), dy.to(y.dtype)) for y in (output, expected))
    for gradient, wanted in zip(own, its, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=2e-5, atol=1e-5)


def test_scale_and_strided_inputs_are_taken_as_they_are() -> None:
    """Values come as a view into the fused product of queries, keys and values."""
    fused = torch.randn(130, 2, 2, 48, generator=torch.Generator().manual_seed(0))
    q, k, v = fused.split(16, -1)
    torch.testing.assert_close(block_attention(q, k, v, 0.0, 0.3), _reference(q, k, v, 0.3), rtol=1e-5, atol=2e-6)


def test_bf16_is_within_its_rounding() -> None:
    """Twice the error of PyTorch's attention, which keeps scores in float32, and no more than three times."""
    (q, k, v), _ = _inputs(256, 4, 4, torch.bfloat16)
    exact = _reference(q.double(), k.double(), v.double())
    torchs = F.scaled_dot_product_attention(*(t.permute(1, 2, 0, 3) for t in (q, k, v)), is_causal=True).permute(2, 0, 1, 3)
    errors = [float((y.double() - exact).norm() / exact.norm()) for y in (block_attention(q, k, v, 0.0, None), torchs)]
    assert errors[0] <= 3 * errors[1]
    assert errors[0] <= 5e-3


def test_what_it_does_not_take() -> None:
    query = torch.zeros(MOST_TOKENS, 1, 1, 4)

    def taken(query: torch.Tensor, dropout: float = 0.0) -> bool:
        return can_take(query, query, dropout)

    assert taken(query)
    assert taken(query.bfloat16())
    assert not taken(query, 0.1)
    assert not taken(query.double())
    assert not taken(query.half())
    assert not taken(torch.zeros(MOST_TOKENS + 1, 1, 1, 4))
    assert not taken(torch.zeros(4, 1, 1, 4, device="meta"))
    assert not can_take(query[1:], query, 0.0), "with earlier keys, as a rank of a context-parallel group has them"
