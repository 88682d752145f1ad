"""Core attention as a Megatron-core module: flash-attn where it can run, products on CPUs, else PyTorch's SDPA."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch.nn.functional as F
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from .cpu_attention import block_attention, can_take


class CoreAttention(MegatronModule):
    """Causal softmax attention of this rank's heads, with grouped keys and values.

    Megatron-core builds it with the keywords of its own ``DotProductAttention``; those without a meaning here are
    ignored. Position masks other than causal, and packed sequences, are refused rather than ignored.
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
        assert config.context_parallel_size == 1, "context parallelism is not built yet; the layout refuses it"
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
        """query ``[s, b, heads, head_dim]``, key and value ``[s, b, kv_heads, head_dim]``.

        Returns ``[s, b, heads * head_dim]``.
        """
        assert attention_mask is None and attention_bias is None and packed_seq_params is None, "attention is causal only"
        dropout = self.dropout if self.training else 0.0
        attend = _kernel_for(query, dropout)
        # Each tensor rank has heads of its own and drops their scores by random numbers of its own. Under sequence
        # parallelism megatron-core has switched to these for the whole block already.
        own_numbers = dropout > 0 and not self.config.sequence_parallel
        with get_cuda_rng_tracker().fork() if own_numbers else nullcontext():
            output = attend(query, key, value, dropout, self.scale)
        return output.reshape(query.size(0), query.size(1), -1)


def _kernel_for(query: Tensor, dropout: float) -> Callable[[Tensor, Tensor, Tensor, float, float | None], Tensor]:
    """The one place that chooses the kernel."""
    if query.is_cuda and query.element_size() == 2 and find_spec("flash_attn") is not None:
        return _flash_attention
    return block_attention if can_take(query, dropout) else _scaled_dot_product_attention


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    from flash_attn import flash_attn_func

    q, k, v = (t.transpose(0, 1) for t in (query, key, value))  # [b, s, heads, head_dim]
    return flash_attn_func(q, k, v, dropout_p=dropout, softmax_scale=scale, causal=True).transpose(0, 1)


def _scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None) -> Tensor:
    q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))  # [b, heads, s, head_dim]
    grouped = q.size(1) != k.size(1)
    output = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=grouped)
    return output.permute(2, 0, 1, 3)
