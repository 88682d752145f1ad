"""The Megatron-core spec of our model: stock parallel layers, our core attention, our norm at all five places.

A spec that leaves a norm slot open is filled by Megatron-core with Transformer Engine's, Apex's or PyTorch's norm, without
a word; the final norm of a bare layer spec always is. So every slot is named here, and :func:`check_norms` looks at what
was built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import nn

from ..norms.config import NormConfig
from ..parallel.config import Layout, Precision
from .attention import CoreAttention
from .config import ModelConfig


@dataclass(frozen=True)
class Site:
    """Where a norm stands: a name of ``model.config.SITES``, and the layer (from 0), None for the final norm."""

    name: str
    layer: int | None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"layers.{self.layer}.{self.name}"


class NormAtSite:
    """Megatron-core's builder of one norm. A class, because ``build_module`` calls nothing else; it returns the norm."""

    def __new__(cls, *, config: TransformerConfig, hidden_size: int, eps: float, norm: NormConfig, site: Site) -> nn.Module:  # type: ignore[misc]
        own_heads_only = site.name in ("q", "k") and config.tensor_model_parallel_size > 1
        module = norm.build(hidden_size, config=config, partial_over_tensor_parallel=own_heads_only)
        module.site = site
        return module


def transformer_config(model: ModelConfig, layout: Layout, precision: Precision) -> TransformerConfig:
    """Megatron-core's config for this model and layout. Its initialization is a no-op: ``model.init`` fills the weights."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_key_value_heads,
        ffn_hidden_size=model.ffn_hidden_size,
        gated_linear_unit=model.activation == "swiglu",
        activation_func=F.silu if model.activation == "swiglu" else _gelu,
        add_bias_linear=model.linear_bias,
        layernorm_epsilon=model.norm.eps,
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence_parallel,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        use_cpu_initialization=True,
        init_method=_leave,
        output_layer_init_method=_leave,
        embedding_init_method=_leave,
        gradient_accumulation_fusion=False,  # it writes main_grad, which DeepSpeed never reads
        masked_softmax_fusion=False,
        persist_layer_norm=False,
    )


#: As GPT-2 has it (Hendrycks & Gimpel, arXiv 1606.08415, the tanh form).
_gelu = partial(F.gelu, approximate="tanh")


def block_spec(model: ModelConfig) -> TransformerBlockSubmodules:
    """Every layer and the final norm."""
    layers = [_layer_spec(model, layer) for layer in range(model.num_layers)]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=_norm(model, "final", None))


def _layer_spec(model: ModelConfig, layer: int) -> ModuleSpec:
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=CoreAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=_norm(model, "q", layer) if model.qk_norm else None,
            k_layernorm=_norm(model, "k", layer) if model.qk_norm else None,
        ),
    )
    mlp = ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear))
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=_norm(model, "attn_in", layer),
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=_norm(model, "mlp_in", layer),
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _norm(model: ModelConfig, site: str, layer: int | None) -> ModuleSpec:
    return ModuleSpec(module=NormAtSite, params={"norm": model.norm_at(site, layer), "site": Site(site, layer)})


def _leave(weight: Any) -> Any:
    return weight


def norms_of(module: nn.Module) -> dict[Site, nn.Module]:
    """Every norm that the spec built, by its site."""
    return {child.site: child for child in module.modules() if isinstance(getattr(child, "site", None), Site)}


def check_norms(module: nn.Module, model: ModelConfig) -> None:
    """Assert that the norms built are exactly those of the config, and that no stock norm slipped in beside them."""
    built = norms_of(module)
    wanted = [Site(site, layer) for site, layer, _ in model.norm_sites()]
    assert sorted(map(str, built)) == sorted(map(str, wanted)), f"norms were built at {sorted(map(str, built))}"
    ours = {id(child) for norm in built.values() for child in norm.modules()}
    stock = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    strays = [name for name, child in module.named_modules() if isinstance(child, stock) and id(child) not in ours]
    assert not strays, f"norms that no config asked for were built at {strays}"
