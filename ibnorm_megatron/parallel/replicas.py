"""Are the copies of a weight still the same, bit for bit? A hash of each, compared over the ranks that hold one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .groups import Groups

#: Elements hashed at once, which bounds the memory that hashing takes to some tens of MiB.
_PIECE = 1 << 20

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Mismatch:
    """A weight whose copies differ.

    Attributes:
        name: of the weight in the whole model.
        over: which ranks hold copies of it: ``tensor``, ``replica`` or ``embedding``.
        ranks: those, in the world, whose copy differs from the first one's.
    """

    name: str
    over: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        ranks = ", ".join(map(str, self.ranks))
        return f"{self.name} differs between {self.over} ranks (on rank {ranks} from the first of them)"


def bit_hash(tensor: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bits, on its device: the sum of each element's bits times an odd number of its place.

    A change of one element always changes it; others go unseen with a probability of about 2**-64. Every bit counts: -0.0 is
    not 0.0, and two different NaNs differ.
    """
    bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, bits.numel(), _PIECE):
        piece = bits[start : start + _PIECE].long()
        place = torch.arange(start, start + piece.numel(), device=tensor.device)
        total += (piece * (place * _SPREAD | 1)).sum()  # int64 arithmetic is modulo 2**64
    return total


_SPREAD = 0x9E3779B97F4A7C15 - 2**64  # 2**64 over the golden ratio, as a signed number (Knuth, TAOCP 3, section 6.4)


def mismatches(parameters: Mapping[str, nn.Parameter], groups: Groups, *, sharded_weights: bool) -> list[Mismatch]:
    """Weights whose copies differ over this rank's tensor ranks, replicas, or pair of tied embeddings. Collective.

    Args:
        parameters: this rank's, by the names that they have in the whole model; the same on all ranks of its stage.
        groups: this rank's place.
        sharded_weights: whether each replica holds a part of every weight only, as under ZeRO stage 3; then the parts are
            compared over tensor ranks, and there are no copies over replicas.
    """
    whole = [name for name, parameter in parameters.items() if not getattr(parameter, "tensor_model_parallel", False)]
    tied = [name for name, parameter in parameters.items() if hasattr(parameter, "ds_pipe_replicated")]
    comparisons = [("tensor", groups.tensor, whole)]
    if not sharded_weights:
        comparisons.append(("replica", groups.replicas, list(parameters)))
    if groups.embedding is not None and not sharded_weights:
        comparisons.append(("embedding", groups.embedding, tied))
    comparisons = [(over, group, names) for over, group, names in comparisons if names and dist.get_world_size(group) > 1]
    compared = {name for _, _, names in comparisons for name in names}
    hashes = {name: bit_hash(getattr(parameters[name], "ds_tensor", parameters[name])) for name in compared}
    return [found for over, group, names in comparisons for found in _compare(over, group, names, hashes)]


def _compare(over: str, group: dist.ProcessGroup, names: list[str], hashes: Mapping[str, Tensor]) -> Iterator[Mismatch]:
    own = torch.stack([hashes[name] for name in names])
    of_ranks = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(of_ranks, own, group=group)
    gathered = torch.stack(of_ranks).cpu()
    differs = gathered != gathered[0]
    ranks = dist.get_process_group_ranks(group)
    for column in differs.any(dim=0).nonzero().flatten().tolist():
        yield Mismatch(names[column], over, tuple(ranks[row] for row in differs[:, column].nonzero().flatten().tolist()))
