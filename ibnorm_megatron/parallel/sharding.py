"""Logical parameters: the tensor that a parameter is a shard of, whatever the layout.

megatron-core marks what it shards: ``tensor_model_parallel``, ``partition_dim``, and ``partition_stride`` (2 for the gate
and up halves of SwiGLU, which are sharded one by one). A sharded vocabulary is padded; the logical tensor is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .groups import Groups


@dataclass(frozen=True)
class Sharding:
    """How a parameter lies on the tensor-parallel ranks.

    Attributes:
        shape: of the logical tensor.
        dim: the dimension that is sharded, or None where every rank holds the whole tensor.
        stride: how many parts of that dimension are sharded one by one.
        padding: rows at the end of ``dim`` that the logical tensor does not have.
    """

    shape: tuple[int, ...]
    dim: int | None
    stride: int
    padding: int

    @staticmethod
    def of(parameter: nn.Parameter, ranks: int, vocab_size: int) -> Sharding:
        """Read the marks on a parameter, of a model whose unpadded vocabulary is ``vocab_size``."""
        shape = list(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3 leaves an empty parameter and its shape
        if not getattr(parameter, "tensor_model_parallel", False):
            return Sharding(tuple(shape), None, 1, 0)
        dim, stride = parameter.partition_dim, parameter.partition_stride
        shape[dim] *= ranks
        padding = shape[dim] - vocab_size if getattr(parameter, "is_embedding_or_output_parameter", False) else 0
        shape[dim] -= padding
        return Sharding(tuple(shape), dim, stride, padding)

    def take(self, logical: Tensor, rank: int, ranks: int) -> Tensor:
        """A rank's shard of the logical tensor; padding is zero."""
        if self.dim is None:
            return logical
        padded = logical
        if self.padding:
            zeros = list(self.shape)
            zeros[self.dim] = self.padding
            padded = torch.cat([logical, logical.new_zeros(zeros)], dim=self.dim)
        pieces = padded.chunk(self.stride * ranks, dim=self.dim)
        return torch.cat(pieces[rank::ranks], dim=self.dim)

    def join(self, shards: list[Tensor]) -> Tensor:
        """The logical tensor from every rank's shard, in rank order: the inverse of :meth:`take`."""
        if self.dim is None:
            return shards[0]
        pieces = [shard.chunk(self.stride, dim=self.dim) for shard in shards]
        padded = torch.cat([of_rank[part] for part in range(self.stride) for of_rank in pieces], dim=self.dim)
        return padded.narrow(self.dim, 0, self.shape[self.dim])


def gather(shard: Tensor, sharding: Sharding, tensor_group: dist.ProcessGroup) -> Tensor:
    """The logical tensor on every rank, from this rank's shard (a parameter's value, gradient or moment)."""
    if dist.get_world_size(tensor_group) == 1:
        return sharding.join([shard.detach().clone()])
    shards = [torch.empty_like(shard, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(tensor_group))]
    dist.all_gather(shards, shard.detach().contiguous(), group=tensor_group)
    return sharding.join(shards)


def gather_logical(
    parameters: Mapping[str, nn.Parameter],
    value: Callable[[nn.Parameter], Tensor],
    groups: Groups,
    vocab_size: int,
) -> dict[str, Tensor]:
    """The logical tensors of the whole model on every rank: weights, gradients, or moments. Collective.

    Args:
        parameters: this rank's, by the names that they have in the whole model.
        value: what to gather of a parameter, of its own shape.
        groups: this rank's place.
        vocab_size: of the model, without padding.
    """
    own = {
        name: gather(value(parameter), Sharding.of(parameter, groups.layout.tensor, vocab_size), groups.tensor).cpu()
        for name, parameter in parameters.items()
    }
    if groups.layout.pipeline == 1:
        return own
    of_stages: list[dict[str, Tensor]] = [{} for _ in range(groups.layout.pipeline)]
    dist.all_gather_object(of_stages, own, group=groups.pipeline)
    return {name: tensor for stage in reversed(of_stages) for name, tensor in stage.items()}
