"""Which runs are compared with which: observations of one size, horizon and seed, and those that are missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .results import Estimate, Observation, Paired
from .statistics import Ints, paired
from .statistics.surface import Points

#: Size, horizon, seed.
Key = tuple[str, float, int]


def key_of(observation: Observation) -> Key:
    """Where an observation stands; horizons are one where their first three digits are."""
    return observation.size, float(f"{observation.horizon:.3g}"), observation.seed


def is_good(observation: Observation) -> bool:
    """Whether there is a loss to compare."""
    return not observation.failure and math.isfinite(observation.loss) and observation.loss > 0


@dataclass(frozen=True)
class Table:
    """Observations by arm and place.

    Attributes:
        arms: names, the baseline first.
        good: those with a loss, by arm and key.
        failed: those without.
        keys: everything that any arm was asked for, in order of size and horizon.
    """

    arms: tuple[str, ...]
    good: dict[str, dict[Key, Observation]]
    failed: dict[str, dict[Key, Observation]]
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, observations: Sequence[Observation], baseline: str) -> Table:
        """Sort them.

        Raises:
            ValueError: two stand at the same place.
        """
        arms = tuple(dict.fromkeys([baseline, *(one.arm for one in observations)]))
        good: dict[str, dict[Key, Observation]] = {arm: {} for arm in arms}
        failed: dict[str, dict[Key, Observation]] = {arm: {} for arm in arms}
        size: dict[Key, tuple[int, float, int]] = {}
        for one in observations:
            key = key_of(one)
            if key in good[one.arm] or key in failed[one.arm]:
                raise ValueError(f"two runs of arm {one.arm} have size {key[0]}, {key[1]:g} tokens a parameter, seed {key[2]}")
            (good if is_good(one) else failed)[one.arm][key] = one
            size.setdefault(key, (one.parameters, key[1], one.seed))
        return cls(arms, good, failed, tuple(sorted(size, key=lambda key: size[key])))

    def lost(self, arm: str) -> tuple[Key, ...]:
        """Where the baseline has a loss and the arm has none."""
        return tuple(key for key in self.keys if key in self.good[self.arms[0]] and key not in self.good[arm])

    def pairs(self, arm: str) -> tuple[Key, ...]:
        """Where both have a loss."""
        return tuple(key for key in self.keys if key in self.good[self.arms[0]] and key in self.good[arm])


def pair_arms(table: Table, control: str | None, margin: Callable[[Observation], float], seed: int) -> tuple[Paired, ...]:
    """Every cell, then all together, each with Holm's correction over its arms.

    Args:
        table: of all arms.
        control: the arm that is not corrected for.
        margin: nats that the equivalence margin is worth at an observation; NaN where nobody knows.
        seed: of sign flips, where there are too many to enumerate.
    """
    cells: list[tuple[str, float] | None] = [*dict.fromkeys(key[:2] for key in table.keys), None]
    found: list[Paired] = []
    for cell in cells:
        asked = [key for key in table.keys if cell in (None, key[:2])]
        rows = [_pair(table, arm, cell, asked, margin, seed) for arm in table.arms[1:]]
        there = [row for row in rows if row is not None]
        corrected = paired.holm({row.arm: row.p for row in there if row.arm != control})
        found += [_replace_holm(row, corrected.get(row.arm, row.p)) for row in there]
    return tuple(found)


def _pair(
    table: Table,
    arm: str,
    cell: tuple[str, float] | None,
    asked: Sequence[Key],
    margin: Callable[[Observation], float],
    seed: int,
) -> Paired | None:
    base, own = table.good[table.arms[0]], table.good[arm]
    keys = [key for key in asked if key in base and key in own]
    if not keys:
        return None
    clusters = paired.Clusters.of([own[key].loss - base[key].loss for key in keys], *_grouped(keys))
    worth = float(np.mean([margin(base[key]) for key in keys]))
    t_interval, t_p = paired.by_t(clusters)
    signs, signs_p, enough = paired.by_signs(clusters, seed)
    size, horizon = cell if cell else (None, None)
    return Paired(
        arm=arm,
        size=size,
        horizon=horizon,
        pairs=len(keys),
        by_t=t_interval,
        by_signs=signs,
        p=signs_p if enough else t_p,
        p_holm=math.nan,
        margin=worth,
        p_equivalent=paired.equivalence(clusters, worth),
        missing=len(asked) - len(keys),
    )


def _grouped(keys: Sequence[Key]) -> tuple[list[tuple[str, int]], list[str]]:
    """Clusters and strata: size and seed; size."""
    return [(key[0], key[2]) for key in keys], [key[0] for key in keys]


def _replace_holm(row: Paired, p_holm: float) -> Paired:
    return Paired(**{**vars(row), "p_holm": p_holm})


def as_points(table: Table, arms: Sequence[str]) -> Points:
    """Observations with a loss, of some arms; the first is number 0."""
    rows = [(number, one) for number, arm in enumerate(arms) for one in table.good[arm].values()]
    places = [key_of(one) for _, one in rows]
    return Points(
        log_n=np.log([one.parameters for _, one in rows]),
        log_d=np.log([one.tokens for _, one in rows]),
        log_c=np.log([one.flops for _, one in rows]),
        log_loss=np.log([one.loss for _, one in rows]),
        arm=np.array([number for number, _ in rows], dtype=np.intp),
        block=_numbers([(size, seed) for size, _, seed in places]),
        branch=_numbers([(one.cluster or key_of(one)[::2]) for _, one in rows]),
        cell=_numbers([(size, horizon) for size, horizon, _ in places]),
        arms=len(arms),
    )


def _numbers(names: Sequence[object]) -> Ints:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.intp)


def slowdown(table: Table, arm: str) -> Estimate | None:
    """Geometric mean of the arm's seconds over the baseline's, paired by run, with Student's interval over size and seed."""
    base, own = table.good[table.arms[0]], table.good[arm]
    keys = [key for key in table.pairs(arm) if min(own[key].seconds, base[key].seconds) > 0]
    if not keys:
        return None
    logs = [math.log(own[key].seconds / base[key].seconds) for key in keys]
    interval, _ = paired.by_t(paired.Clusters.of(logs, *_grouped(keys)))
    return exponential(interval)


def exponential(interval: Estimate) -> Estimate:
    """The interval of exp(x)."""
    with np.errstate(over="ignore"):
        return Estimate(*(float(np.exp(end)) for end in (interval.value, interval.low, interval.high)))
