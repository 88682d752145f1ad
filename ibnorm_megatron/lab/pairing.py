"""Which runs are compared with which: observations of one size, horizon and seed, and those that are missing or to come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .results import LEVEL, Estimate, Observation, Paired
from .statistics import Ints, paired
from .statistics.surface import Points, levels

#: Size, horizon, seed.
Key = tuple[str, float, int]


#: Differences are equal where their standard error is less than this share of their mean.
_NO_SPREAD = 1e-9


def keys_of(observations: Sequence[Observation]) -> list[Key]:
    """Where each observation stands.

    Horizons of a size are one where they lie within :data:`~.statistics.surface.SAME` of the lowest: arms may count their
    norms' few parameters, or round steps. They are named by the first observation's, to three digits.
    """
    names: dict[tuple[str, int], float] = {}
    horizons = [one.horizon for one in observations]
    numbers = np.zeros(len(observations), dtype=np.intp)
    for size in dict.fromkeys(one.size for one in observations):
        own = [place for place, one in enumerate(observations) if one.size == size]
        numbers[own] = levels(np.log([horizons[place] for place in own]))
    for one, number, horizon in zip(observations, numbers, horizons, strict=True):
        names.setdefault((one.size, int(number)), float(f"{horizon:.3g}"))
    return [(one.size, names[one.size, int(number)], one.seed) for one, number in zip(observations, numbers, strict=True)]


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
        pending: those that are still to come.
        keys: everything that any arm was asked for, in order of size and horizon.
    """

    arms: tuple[str, ...]
    good: dict[str, dict[Key, Observation]]
    failed: dict[str, dict[Key, Observation]]
    pending: dict[str, dict[Key, Observation]]
    keys: tuple[Key, ...]

    @classmethod
    def of(cls, observations: Sequence[Observation], baseline: str, pending: Sequence[Observation] = ()) -> Table:
        """Sort them.

        Raises:
            ValueError: two stand at the same place.
        """
        everything = [*observations, *pending]
        arms = tuple(dict.fromkeys([baseline, *(one.arm for one in everything)]))
        good, failed, waiting = ({arm: dict[Key, Observation]() for arm in arms} for _ in range(3))
        size: dict[Key, tuple[int, float, int]] = {}
        for number, (one, key) in enumerate(zip(everything, keys_of(everything), strict=True)):
            if any(key in found[one.arm] for found in (good, failed, waiting)):
                raise ValueError(f"two runs of arm {one.arm} have size {key[0]}, {key[1]:g} tokens a parameter, seed {key[2]}")
            kind = waiting if number >= len(observations) else good if is_good(one) else failed
            kind[one.arm][key] = one
            size.setdefault(key, (one.parameters, key[1], one.seed))
        return cls(arms, good, failed, waiting, tuple(sorted(size, key=lambda key: size[key])))

    @property
    def baseline(self) -> str:
        """What the others are compared with."""
        return self.arms[0]

    @cached_property
    def step(self) -> float:
        """Of what all losses are multiples, where somebody has rounded them to three decimals or fewer; else 0."""
        losses = np.array([one.loss for own in self.good.values() for one in own.values()])
        rounded = (10.0**-digits for digits in range(4) if (losses == losses.round(digits)).all())
        return next(rounded, 0.0) if len(losses) > 2 else 0.0

    @property
    def open(self) -> bool:
        """Whether anything is pending, of any arm."""
        return any(self.pending.values())

    def settled(self) -> Table:
        """Without what has ended where a run of another arm is still to come: all arms have the same places then, or lost them.

        Arms of which nothing has ended yet are not waited for.

        An end of training that one arm has and others have not yet brings its seed's luck, and what the surface misses
        there, to that arm alone. A multiplier that is known to a percent can be off by several because of one of them.
        """
        waiting = {key for arm, own in self.pending.items() if self.good[arm] for key in own}
        good, failed = (
            {arm: {key: one for key, one in own.items() if key not in waiting} for arm, own in found.items()}
            for found in (self.good, self.failed)
        )
        return replace(self, good=good, failed=failed)

    def pairs(self, arm: str) -> tuple[Key, ...]:
        """Where both have a loss."""
        return self._where(lambda key: key in self.good[self.baseline] and key in self.good[arm])

    def lost(self, arm: str) -> tuple[Key, ...]:
        """Where the baseline has a loss and the arm never will."""
        return self._where(lambda key: key in self.good[self.baseline] and self._never(arm, key))

    def missed(self, arm: str) -> tuple[Key, ...]:
        """Where the arm has a loss and the baseline never will."""
        return self._where(lambda key: key in self.good[arm] and self._never(self.baseline, key))

    def awaited(self, arm: str) -> tuple[Key, ...]:
        """Where there may still be a pair: a run of either is pending, and none of the two is lost."""
        names = (self.baseline, arm)
        return self._where(
            lambda key: any(key in self.pending[name] for name in names) and not any(self._never(name, key) for name in names)
        )

    def _never(self, arm: str, key: Key) -> bool:
        return key not in self.good[arm] and key not in self.pending[arm]

    def _where(self, keep: Callable[[Key], bool]) -> tuple[Key, ...]:
        return tuple(filter(keep, self.keys))


def pair_arms(table: Table, control: str | None, margin: Callable[[Observation], float], seed: int) -> tuple[Paired, ...]:
    """Every cell, then all together, each with Holm's correction over its arms.

    Args:
        table: of all arms.
        control: the arm that is not corrected for.
        margin: nats that the equivalence margin is worth at an observation; NaN where nobody knows.
        seed: of sign flips, where there are too many to enumerate.
    """
    cells: list[tuple[str, float] | None] = [*dict.fromkeys(key[:2] for key in table.keys), None]
    candidates = sum(arm != control for arm in table.arms[1:])
    found: list[Paired] = []
    for cell in cells:
        asked = [key for key in table.keys if cell in (None, key[:2])]
        rows = [_pair(table, arm, cell, asked, margin, seed, candidates) for arm in table.arms[1:]]
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
    candidates: int,
) -> Paired | None:
    base, own = table.good[table.baseline], table.good[arm]
    keys = [key for key in asked if key in base and key in own]
    if not keys:
        return None
    pending = len(set(table.awaited(arm)).intersection(asked))
    clusters = paired.Clusters.of([own[key].loss - base[key].loss for key in keys], *_grouped(keys))
    worth = float(np.mean([margin(base[key]) for key in keys]))
    (t_interval, t_p), p_equivalent = paired.by_t(clusters), paired.equivalence(clusters, worth)
    if clusters.mean and clusters.standard_error <= _NO_SPREAD * abs(clusters.mean):
        # Losses that were rounded before anybody read them: how far they spread was rounded away.
        t_interval, t_p = Estimate(clusters.mean, -math.inf, math.inf), 1.0
        p_equivalent = math.nan if math.isnan(worth) else 1.0
    signs, signs_p = paired.by_signs(clusters, seed)
    size, horizon = cell if cell else (None, None)
    return Paired(
        arm=arm,
        size=size,
        horizon=horizon,
        pairs=len(keys),
        by_t=t_interval,
        by_signs=signs,
        p=signs_p if paired.least_p(len(clusters.sums)) * max(1, candidates) <= 1 - LEVEL else t_p,
        p_holm=math.nan,
        margin=worth,
        p_equivalent=p_equivalent,
        missing=len(asked) - len(keys) - pending,
        pending=pending,
    )


def _grouped(keys: Sequence[Key]) -> tuple[list[tuple[str, int]], list[str]]:
    """Clusters and strata: size and seed; size."""
    return [(key[0], key[2]) for key in keys], [key[0] for key in keys]


def _replace_holm(row: Paired, p_holm: float) -> Paired:
    return Paired(**{**vars(row), "p_holm": p_holm})


def as_points(table: Table, arms: Sequence[str]) -> Points:
    """Observations with a loss, of some arms; the first is number 0."""
    rows = [(number, key, one) for number, arm in enumerate(arms) for key, one in table.good[arm].items()]
    places = [key for _, key, _ in rows]
    # Python's integers may be larger than numpy's.
    return Points(
        log_n=np.log([float(one.parameters) for _, _, one in rows]),
        log_d=np.log([float(one.tokens) for _, _, one in rows]),
        log_c=np.log([one.flops for _, _, one in rows]),
        log_loss=np.log([one.loss for _, _, one in rows]),
        arm=np.array([number for number, _, _ in rows], dtype=np.intp),
        block=_numbers([(size, seed) for size, _, seed in places]),
        branch=_numbers([(one.cluster or key[::2]) for _, key, one in rows]),
        cell=_numbers([(size, horizon) for size, horizon, _ in places]),
        arms=len(arms),
    )


def _numbers(names: Sequence[object]) -> Ints:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], dtype=np.intp)


def timed(table: Table, arm: str) -> tuple[Key, ...]:
    """Pairs of which both have seconds."""
    base, own = table.good[table.baseline], table.good[arm]
    return tuple(key for key in table.pairs(arm) if all(0 < one[key].seconds < math.inf for one in (base, own)))


def log_slowdown(table: Table, arm: str) -> paired.Clusters | None:
    """Logarithms of the arm's seconds over the baseline's, paired by run, in clusters of size and seed."""
    base, own, keys = table.good[table.baseline], table.good[arm], timed(table, arm)
    if not keys:
        return None
    return paired.Clusters.of([math.log(own[key].seconds / base[key].seconds) for key in keys], *_grouped(keys))


def slowdown(table: Table, arm: str) -> Estimate | None:
    """Geometric mean of the arm's seconds over the baseline's, with Student's interval over size and seed."""
    logs = log_slowdown(table, arm)
    return None if logs is None else exponential(paired.by_t(logs)[0])


def exponential(interval: Estimate) -> Estimate:
    """The interval of exp(x)."""
    with np.errstate(over="ignore"):
        return Estimate(*(float(np.exp(end)) for end in (interval.value, interval.low, interval.high)))
