"""What can be compared of a study that still runs: arms that have come as far, at ends of training that all of them have."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .results import Observation

#: An arm with less than this share of the baseline's ends has only begun: it waits, and not the others for it.
_BEGUN = 0.5


@dataclass(frozen=True)
class InStep:
    """Observations in which nobody misses a run that is still to come.

    Attributes:
        observations: of the arms that have come as far as the baseline, where every one of them has ended.
        waiting: ends of training that are left out until other arms have theirs.
        behind: arms that are left out altogether.
    """

    observations: tuple[Observation, ...]
    waiting: int
    behind: tuple[str, ...]


def in_step(found: Sequence[Observation], arms: Sequence[str], baseline: str, control: str | None) -> InStep:
    """Leave out what would count as lost though it is only late.

    Without the baseline or the control there is nothing to compare with, and nothing is left.
    """
    ends = Counter(each.arm for each in found)
    behind = tuple(arm for arm in arms if ends[arm] < max(1, _BEGUN * ends[baseline]))
    if baseline in behind or control in behind:
        return InStep((), len(found), behind)
    there = defaultdict(set)
    for each in found:
        there[each.size, each.tokens, each.seed].add(each.arm)
    wanted = set(arms) - set(behind)
    kept = tuple(each for each in found if each.arm in wanted and there[each.size, each.tokens, each.seed] >= wanted)
    return InStep(kept, len(found) - len(kept), behind)
