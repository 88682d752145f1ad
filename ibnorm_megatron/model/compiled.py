"""``model.compile: layers``: every transformer layer through ``torch.compile``, in place.

A layer is the unit because it is what repeats: layers of one kind share their compiled code, whatever their number, and
what lies between them (recomputation, pipeline stages, DeepSpeed's hooks on parameters) goes on as in eager mode. What a
layer cannot trace breaks its graph and runs eagerly there: collectives of tensor parallelism, norms over sharded columns,
the noise of norms that draw random numbers, dropout under megatron-core's generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._dynamo
from megatron.core.tensor_parallel.layers import RowParallelLinear
from torch import Tensor, nn
from torch.distributed import ProcessGroup

#: Codes that a layer may need: for training, for evaluation, and for as many again in another shape; each for as many powers
#: of two as there are documents in a row.
_CODES_A_LAYER = 16


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Compile each layer's call. Its parameters, their names and its place in the model stay as they are."""
    # All layers run the same function. Where they differ, in a norm's depth factor or in a map of norms, each has a code of
    # its own, and above its limit torch would run the rest eagerly, without a word.
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _CODES_A_LAYER * len(layers))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, dynamo.recompile_limit)
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, RowParallelLinear):
                module._forward_impl = _with_group(module._forward_impl, module.tp_group)
        layer.compile(dynamic=False)


def _with_group(linear: Callable[..., Tensor], group: ProcessGroup) -> Callable[..., Tensor]:
    """Megatron-core's row-parallel layer calls its matrix product without its group, and there warns of that, which no graph
    can hold: two breaks in every layer."""

    def forward(*, tp_group: ProcessGroup | None, **arguments: Any) -> Tensor:
        return linear(tp_group=tp_group or group, **arguments)

    return forward


def uncompiled() -> AbstractContextManager[object]:
    """Within it compiled modules run as they were written.

    Compiled code knows the hooks on modules inside a layer that stood when it was made, and no later ones: whoever sets one
    to look at what goes through a norm runs the model in here.
    """
    return torch.compiler.set_stance("force_eager")
