"""Initial weights that depend on a parameter's name and the seed, and on nothing else.

Every logical tensor is drawn whole from a generator of its own, and a rank takes its shard. So the initial model is the
same in every layout, and two models that differ only in their norms share all other initial tensors bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
import xxhash
from torch import nn

from ..parallel.sharding import Sharding
from .config import ModelConfig
from .norm_slots import norms_of
from .width import width_ratio


def initialize(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    model: ModelConfig,
    seed: int,
    tensor_group: dist.ProcessGroup,
) -> None:
    """Fill every parameter except those of the norms, which initialize themselves.

    ``parameters`` are the module's, by the names that they have in the whole model. Matrices are normal with ``init_std``;
    those that write to the residual stream are divided by sqrt(2 L) if ``scale_residual_init`` (Radford et al. 2019, GPT-2,
    section 2.3), and a layer's by the root of how much wider than muP's base they are (``width``); vectors are zero.
    """
    rank, ranks = dist.get_rank(tensor_group), dist.get_world_size(tensor_group)
    in_norms = {id(parameter) for norm in norms_of(module).values() for parameter in norm.parameters()}
    to_residual = _residual_writers(module)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if id(parameter) in in_norms:
                continue
            if parameter.dim() == 1:
                parameter.zero_()
                continue
            sharding = Sharding.of(parameter, ranks, model.vocab_size)
            std = model.init_std / math.sqrt(width_ratio(parameter))
            if model.scale_residual_init and id(parameter) in to_residual:
                std /= math.sqrt(2 * model.num_layers)
            generator = torch.Generator().manual_seed(xxhash.xxh3_64_intdigest(f"{seed} {name}".encode()) >> 1)
            logical = torch.empty(sharding.shape).normal_(0.0, std, generator=generator)
            parameter.copy_(sharding.take(logical, rank, ranks))


def _residual_writers(module: nn.Module) -> set[int]:
    """Ids of the weights whose product is added to the residual stream: megatron-core's row-parallel layers."""
    from megatron.core.tensor_parallel.layers import RowParallelLinear

    return {id(child.weight) for child in module.modules() if isinstance(child, RowParallelLinear)}
