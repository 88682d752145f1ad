"""The Megatron-core spec of our model: stock parallel layers, our core attention, our norm at every place.

A spec that leaves a norm slot open is filled by Megatron-core with Transformer Engine's, Apex's or PyTorch's norm, without
a word; the final norm of a bare layer spec always is. So every slot is named here, and :func:`check_norms` looks at what
was built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import nn

from ..norms.site import Site
from ..parallel.config import Layout, Precision, Recompute
from ..parallel.groups import Groups
from .attention import CoreAttention
from .config import ModelConfig
from .norm_slots import NormAtSite, NormedRowParallelLinear, NormSlot, ResidualAdd, norms_of


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
        layernorm_epsilon=1e-5,  # unused: every norm has its own
        hidden_dropout=model.dropout,
        attention_dropout=model.dropout,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        cp_comm_type={"all_gather": "all_gather", "all_to_all": "a2a"}[layout.context_method],
        **_RECOMPUTE[layout.recompute],
        deallocate_pipeline_outputs=True,
        calculate_per_token_loss=True,  # the pipeline's schedule must not divide our losses by anything
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


#: Korthikanti et al., arXiv 2205.05198: the core attention only, or every layer.
_RECOMPUTE: dict[Recompute, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}

#: As GPT-2 has it (Hendrycks & Gimpel, arXiv 1606.08415, the tanh form).
_gelu = partial(F.gelu, approximate="tanh")


def block_spec(model: ModelConfig, groups: Groups, config: TransformerConfig) -> TransformerBlockSubmodules:
    """Every layer of this rank's stage, and the final norm."""
    slots = norm_slots(model, groups)
    by_layer: dict[int, dict[str, NormSlot]] = {layer: {} for layer in stage_layers(model, groups)}
    for site, slot in slots.items():
        if site.layer is not None:
            by_layer[site.layer][site.name] = slot
    layers = [_layer_spec(model, of_layer, config) for of_layer in by_layer.values()]
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=_norm(slots.get(Site("final"))))


def norm_slots(model: ModelConfig, groups: Groups) -> dict[Site, NormSlot]:
    """What to build at every site of this rank's stage that has a norm."""
    layers = stage_layers(model, groups)
    here = {Site("embedding"): groups.first_stage, Site("final"): groups.last_stage}
    return {
        site: NormSlot(norm, site, model.norm_width(site), model.has_sharded_columns(site), groups, model.compile == "norms")
        for site, norm in model.norm_sites().items()
        if (site.layer in layers if site.layer is not None else here[site])
    }


def stage_layers(model: ModelConfig, groups: Groups) -> range:
    """The layers that this rank holds, counted from 0 over the whole model."""
    size = model.num_layers // groups.layout.pipeline
    return range(groups.stage * size, (groups.stage + 1) * size)


def _layer_spec(model: ModelConfig, slots: dict[str, NormSlot], config: TransformerConfig) -> ModuleSpec:
    """One layer, from the slots of its norms by site name."""
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=CoreAttention,
            linear_proj=_row_parallel(slots.get("attn_sub")),
            q_layernorm=_norm(slots.get("q")),
            k_layernorm=_norm(slots.get("k")),
        ),
    )
    linear_fc2 = _row_parallel(slots.get("mlp_sub"))
    mlp = ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=linear_fc2))
    # Megatron-core builds these two without its config.
    bda = {"config": config, "after": model.norm_placement == "post"}
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=_norm(slots.get("attn_in")) or IdentityOp,
            self_attention=attention,
            self_attn_bda=_residual_add(slots.get("attn_out"), bda),
            pre_mlp_layernorm=_norm(slots.get("mlp_in")) or IdentityOp,
            mlp=mlp,
            mlp_bda=_residual_add(slots.get("mlp_out"), bda),
        ),
    )


def _norm(slot: NormSlot | None) -> ModuleSpec | None:
    return slot and ModuleSpec(module=NormAtSite, params={"slot": slot})


def _row_parallel(slot: NormSlot | None) -> ModuleSpec | type:
    return ModuleSpec(module=NormedRowParallelLinear, params={"slot": slot}) if slot else RowParallelLinear


def _residual_add(slot: NormSlot | None, params: dict[str, Any]) -> ModuleSpec | Callable[..., Any]:
    return ModuleSpec(module=ResidualAdd, params={"slot": slot, **params}) if slot else get_bias_dropout_add


def _leave(weight: Any) -> Any:
    return weight


def check_norms(module: nn.Module, wanted: Mapping[Site, NormSlot]) -> None:
    """Assert that the norms built are exactly those wanted, and that no stock norm slipped in beside them."""
    built = norms_of(module)
    assert built.keys() == wanted.keys(), f"norms were built at {sorted(map(str, built))}"
    ours = {id(child) for norm in built.values() for child in norm.modules()}
    stock = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    strays = [name for name, child in module.named_modules() if isinstance(child, stock) and id(child) not in ours]
    assert not strays, f"norms that no config asked for were built at {strays}"
