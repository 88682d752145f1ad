"""What two runs share that are compared, in few digits: the weights that they began with, and the order of their samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor, nn

from ..data.dataset import Sequences
from ..model.norm_slots import norms_of
from ..parallel.groups import Groups
from ..parallel.sharding import Sharding, gather


def digest_of_weights(module: nn.Module, groups: Groups, vocab_size: int) -> str:
    """Hash of all logical weights that are no norm's, by name, shape and value. Collective; before an engine takes them.

    The same in every layout, and in all runs whose configs differ only in what norms they have. Another precision rounds the
    weights otherwise, and has another hash.
    """
    in_norms = {id(parameter) for norm in norms_of(module).values() for parameter in norm.parameters()}
    own = {}
    for name, parameter in module.logical_parameters().items():  # type: ignore[operator]
        if id(parameter) not in in_norms:
            sharding = Sharding.of(parameter, groups.layout.tensor, vocab_size)
            own[name] = _hash(gather(parameter.detach().float(), sharding, groups.tensor).cpu())
    of_stages: list[dict[str, str]] = [{} for _ in range(groups.layout.pipeline)]
    dist.all_gather_object(of_stages, own, group=groups.pipeline)
    whole = {name: digest for stage in of_stages for name, digest in stage.items()}
    return xxhash.xxh3_128_hexdigest("\n".join(f"{name} {whole[name]}" for name in sorted(whole)).encode())


def digest_of_samples(dataset: Sequences, total: int) -> list[list[int | str]]:
    """Pairs of i and the hash of sample i's tokens and labels, for i = 0, 1, 2, 4, 8 ... below ``total``.

    A shorter run's list is the beginning of a longer one's where both have the same samples in the same order.
    """
    pairs: list[list[int | str]] = []
    for index in _sparse(total):
        sample = dataset.sample(index)
        pairs.append([index, _hash(torch.stack([sample["tokens"], sample["labels"]]))])
    return pairs


def _sparse(total: int) -> Iterator[int]:
    index = 0
    while index < total:
        yield index
        index = max(1, 2 * index)


def _hash(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape))
    return f"{shape}:{xxhash.xxh3_128_hexdigest(tensor.contiguous().numpy())}"
