"""What a rank sends in a step, as a list of collectives: computed by a formula, or counted. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "send"]

#: The groups of :class:`~ibnorm_megatron.parallel.groups.Groups`, from those that talk most to those that talk least; and
#: ``model``, the ranks that together hold one copy of the weights, and ``world``.
GROUPS = ("tensor", "context", "pipeline", "embedding", "replicas", "model", "world")


@dataclass(frozen=True)
class Message:
    """Collectives of one kind over one group, all those of a step together.

    Attributes:
        group: of :data:`GROUPS`.
        what: is sent.
        operation: how.
        ranks: of the group.
        calls: collectives; None where DeepSpeed's buckets decide, and only the bytes are certain.
        payload: bytes of the whole tensors: of what an all-reduce sums, an all-gather gives, a reduce-scatter takes, an
            all-to-all takes on one rank; of a send, what is sent.
    """

    group: str
    what: str
    operation: Operation
    ranks: int
    calls: int | None
    payload: int

    @property
    def sent(self) -> float:
        """Bytes that one rank sends if collectives are rings of n ranks, which then send as little as is possible.

        An all-reduce is a reduce-scatter and an all-gather, and each of these passes on all but one n-th of the whole
        (Patarasuk & Yuan, J. Parallel Distrib. Comput. 69, 2009). A library may choose trees instead.
        """
        if self.operation == "send":
            return self.payload
        passes = 2 if self.operation == "all_reduce" else 1
        return passes * self.payload * (self.ranks - 1) / self.ranks


def sent_by_group(messages: Iterable[Message]) -> dict[str, float]:
    """Bytes that one rank sends over each group that it sends anything over, in the order of :data:`GROUPS`."""
    sums: dict[str, float] = defaultdict(float)
    for message in messages:
        sums[message.group] += message.sent
    return {group: sums[group] for group in sorted(sums, key=lambda name: (*GROUPS, name).index(name)) if sums[group]}
