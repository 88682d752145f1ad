"""Core attention as a Megatron-core module: flash-attn where it can run, products on CPUs, else PyTorch's SDPA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ..parallel.context import gather_tokens, heads_for_tokens, tokens_for_heads
from .cpu_attention import block_attention, can_take


class CoreAttention(MegatronModule):
    """Causal softmax attention of this rank's heads, with grouped keys and values.

    Megatron-core builds it with the keywords of its own ``DotProductAttention``; those without a meaning here are
    ignored. Position masks other than causal, and packed sequences, are refused rather than ignored.

    Where context parallelism spreads the tokens over ranks (:mod:`ibnorm_megatron.parallel.context`), ``cp_comm_type`` says
    how they share the work: ``all_gather`` brings all keys and values to every rank, ``a2a`` brings all tokens of some of the
    heads to each and takes the output back.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        super().__init__(config)
        self.context = pg_collection.cp if config.context_parallel_size > 1 else None
        self.exchange_heads = cp_comm_type == "a2a"
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """query ``[s, b, heads, head_dim]``, key and value ``[s, b, kv_heads, head_dim]``, with this rank's tokens s.

        Returns ``[s, b, heads * head_dim]``.
        """
        assert attention_mask is None and attention_bias is None and packed_seq_params is None, "attention is causal only"
        dropout = self.dropout if self.training else 0.0
        # Each tensor rank has heads of its own and drops their scores by random numbers of its own. Under sequence
        # parallelism megatron-core has switched to these for the whole block already.
        own_numbers = dropout > 0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_numbers else nullcontext():
            output = self._over_ranks(partial(_attend, dropout=dropout, scale=self.scale), query, key, value)
        return output.reshape(query.size(0), query.size(1), -1)

    def _over_ranks(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.context is None:
            return attend(q, k, v)
        if self.exchange_heads:
            q, k, v = (tokens_for_heads(t, self.context) for t in (q, k, v))
            return heads_for_tokens(attend(q, k, v), self.context)
        k, v = gather_tokens(torch.cat([k, v], dim=-1), self.context).chunk(2, dim=-1)
        rank, ranks, run = self.context.rank(), self.context.size(), q.size(0) // 2
        ends = ((rank + 1) * run, (2 * ranks - rank) * run)  # of the early and the late run in the whole sequence
        return torch.cat([attend(own, k[:end], v[:end]) for own, end in zip(q.split(run), ends, strict=True)])


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    """The one place that chooses the kernel."""
    if query.is_cuda and query.element_size() == 2 and find_spec("flash_attn") is not None:
        return _flash_attention(query, key, value, dropout, scale)
    attend = block_attention if can_take(query, key, dropout) else _scaled_dot_product_attention
    return attend(query, key, value, dropout, scale)


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    """Causal: the last query sees every key, however many queries there are."""
    from flash_attn import flash_attn_func

    q, k, v = (t.transpose(0, 1) for t in (query, key, value))  # [b, s, heads, head_dim]
    return flash_attn_func(q, k, v, dropout_p=dropout, softmax_scale=scale, causal=True).transpose(0, 1)


def _scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    """As :func:`_flash_attention`; PyTorch's own causal mask would give the first query the first key only."""
    q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))  # [b, heads, s, head_dim]
    grouped, earlier = q.size(1) != k.size(1), k.size(2) - q.size(2)
    mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(earlier) if earlier else None
    output = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scale, enable_gqa=grouped
    )
    return output.permute(2, 0, 1, 3)
