"""The gradients that tensor parallelism leaves partial, summed exactly once.

Parameters that every tensor-parallel rank holds in full (norms, the biases of row-parallel layers) get a gradient from
the tokens or heads that the rank saw. Where a rank sees only its share, that gradient is partial, and without a sum the
copies drift apart. megatron-core sums them only under its own data-parallel wrapper, and DeepSpeed not at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor, nn


def is_partial(parameter: nn.Parameter) -> bool:
    """Whether a rank's gradient of this parameter covers only its share of tokens or heads.

    The marks are set where the parameter is made: ``sequence_parallel`` by megatron-core on biases and by our norms,
    ``partial_over_tensor_parallel`` by norms that act on a rank's own heads. Names are never looked at.
    """
    return getattr(parameter, "sequence_parallel", False) or getattr(parameter, "partial_over_tensor_parallel", False)


def sum_partial_gradients(module: nn.Module, tensor_group: dist.ProcessGroup) -> list[str]:
    """Sum every partial gradient over the tensor-parallel group as it is computed, in float32.

    A hook on the parameter runs once per backward pass, before ZeRO takes the gradient, at every stage and with
    accumulation; so it has to be set before ``deepspeed.initialize``.

    Returns:
        The names of the parameters whose gradients are summed.
    """
    if dist.get_world_size(tensor_group) == 1:
        return []
    partial = [(name, parameter) for name, parameter in module.named_parameters() if is_partial(parameter)]
    for _, parameter in partial:
        parameter.register_hook(_summed_over(tensor_group))
    return [name for name, _ in partial]


def _summed_over(group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    def hook(gradient: Tensor) -> Tensor:
        total = gradient.float().contiguous().clone()
        dist.all_reduce(total, group=group)
        return total.to(gradient.dtype)

    return hook
