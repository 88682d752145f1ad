"""Core attention as a Megatron-core module: flash-attn where it can run, products on CPUs, else PyTorch's SDPA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ..parallel.context import gather_tokens, heads_for_tokens, tokens_for_heads
from .attention_choice import flash_obstacle
from .cpu_attention import block_attention, can_take
from .documents import cumulative_lengths, document_mask


class CoreAttention(MegatronModule):
    """Causal softmax attention of this rank's heads, with grouped keys and values.

    Megatron-core builds it with the keywords of its own ``DotProductAttention``; those without a meaning here are
    ignored. Position masks other than causal, and packed sequences, are refused rather than ignored.

    Where a row holds documents that must not see each other, their ends come in the place of ``attention_mask``: the one
    tensor that Megatron-core hands through every layer untouched, under recomputation as well.

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

        attention_mask: None, or the ends of documents, int32 ``[b, d]`` (:mod:`.documents`), of the tokens of all ranks.
        Returns ``[s, b, heads * head_dim]``.
        """
        assert attention_bias is None and packed_seq_params is None, "attention is causal only"
        assert attention_mask is None or attention_mask.dtype == torch.int32, "ends of documents, and no other mask"
        dropout = self.dropout if self.training else 0.0
        # Each tensor rank has heads of its own and drops their scores by random numbers of its own. Under sequence
        # parallelism megatron-core has switched to these for the whole block already.
        own_numbers = dropout > 0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_numbers else nullcontext():
            output = self._over_ranks(partial(_attend, dropout=dropout, scale=self.scale), query, key, value, attention_mask)
        return output.reshape(query.size(0), query.size(1), -1)

    def _over_ranks(self, attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, ends: Tensor | None) -> Tensor:
        if self.context is None:
            return attend(q, k, v, ends=ends)
        if self.exchange_heads:
            q, k, v = (tokens_for_heads(t, self.context) for t in (q, k, v))
            return heads_for_tokens(attend(q, k, v, ends=ends), self.context)
        k, v = gather_tokens(torch.cat([k, v], dim=-1), self.context).chunk(2, dim=-1)
        rank, ranks, run = self.context.rank(), self.context.size(), q.size(0) // 2
        seen = ((rank + 1) * run, (2 * ranks - rank) * run)  # keys up to the end of the early run, and of the late one
        own = zip(q.split(run), seen, strict=True)
        return torch.cat([attend(part, k[:s], v[:s], ends=None if ends is None else ends.clamp(max=s)) for part, s in own])


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None, ends: Tensor | None) -> Tensor:
    """The one place that chooses the kernel. Each of them has the last query see the last key, however many there are.

    ends: of documents among the keys, ``[b, d]``; attention keeps to them.
    """
    if flash_obstacle(query.is_cuda, query.element_size()) is None:
        return _flash_attention(query, key, value, dropout, scale, ends)
    attend = block_attention if can_take(query, key, dropout) else _scaled_dot_product_attention
    return attend(query, key, value, dropout, scale, ends)


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None, ends: Tensor | None
) -> Tensor:
    """Causal: the last query sees every key, or every one of its document; with documents, rows are put behind one another."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    how: dict[str, Any] = {"dropout_p": dropout, "softmax_scale": scale, "causal": True}
    how["deterministic"] = torch.are_deterministic_algorithms_enabled()  # its backward pass knows nothing of PyTorch's switch
    q, k, v = (t.transpose(0, 1) for t in (query, key, value))  # [b, s, heads, head_dim]
    if ends is None:
        return flash_attn_func(q, k, v, **how).transpose(0, 1)
    sizes = query.size(0), key.size(0)
    # The longest document may be as long as the sequence; asking how long it is would wait for the device.
    output = flash_attn_varlen_func(
        *(t.flatten(0, 1) for t in (q, k, v)),
        *cumulative_lengths(ends, *sizes),
        *sizes,
        **how,
    )
    return output.unflatten(0, q.shape[:2]).transpose(0, 1)


def _scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None, ends: Tensor | None
) -> Tensor:
    """As :func:`_flash_attention`; PyTorch's own causal mask would give the first query the first key only."""
    q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))  # [b, heads, s, head_dim]
    grouped, earlier = q.size(1) != k.size(1), k.size(2) - q.size(2)
    mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(earlier) if earlier else None
    if ends is not None:
        mask = document_mask(ends, q.size(2), k.size(2))[:, None]
    output = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout, scale=scale, enable_gqa=grouped
    )
    return output.permute(2, 0, 1, 3)
