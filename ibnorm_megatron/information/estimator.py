"""The one interface: what every estimator declares, and how all of them are called and tabulated alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from .measure import Measure, Region
from .observations import Observations


class Estimator(Protocol):
    """One way to put a number on information. Estimators are frozen dataclasses that hold their settings.

    Attributes:
        name: unique among those that are tabulated together.
        quantity: what it estimates, in symbols.
        needs: the fields of :class:`Observations` beside ``t`` that have to be there.
        region: where it was validated with these settings.
        relative_to: the decoder, kernel or noise in words.
    """

    @property
    def name(self) -> str: ...
    @property
    def quantity(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def region(self) -> Region: ...
    @property
    def relative_to(self) -> str: ...

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """One measure, or one for each of several settings. Called by :func:`measure`, which has checked ``data``."""
        ...


def measure(estimator: Estimator, data: Observations, seed: int = 0, *, anywhere: bool = False) -> tuple[Measure, ...]:
    """What an estimator says of observations; NaN with the reason where it cannot say anything.

    Args:
        seed: of splits, initial weights, noise, permutations and resamples: the same seed gives the same numbers.
        anywhere: outside of the validated region too, with the refusal as the reason beside the number: for validation.
    """
    if refusal := _cannot(estimator, data):
        return (missing(estimator, data, refusal),)
    outside = estimator.region.refusal(data.n, data.d, _labels(estimator, data))
    if outside and not anywhere:
        return (missing(estimator, data, outside),)
    return estimator.estimate(data, seed)


def measure_all(estimators: Iterable[Estimator], data: Observations, seed: int = 0) -> list[Measure]:
    """What each of several estimators says, in their order."""
    return [found for one in estimators for found in measure(one, data, seed)]


def missing(estimator: Estimator, data: Observations, reason: str) -> Measure:
    """No number, and why."""
    return Measure(estimator.quantity, estimator.name, math.nan, data.n, data.d, estimator.relative_to, reason=reason)


def table(measures: Sequence[Measure]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of a table; numbers with four digits, empty cells for NaN."""
    rows = [one.cells() for one in measures]
    heads = list(rows[0]) if rows else []
    return heads, [[_cell(row[head]) for head in heads] for row in rows]


def _cannot(estimator: Estimator, data: Observations) -> str:
    if absent := [name for name in estimator.needs if getattr(data, name) is None]:
        return f"needs {' and '.join(absent)}"
    if not data.t_rows.finite:
        return "t holds NaN or infinity"
    if "x" in estimator.needs and not data.x_rows.finite:
        return "x holds NaN or infinity"
    return ""


def _labels(estimator: Estimator, data: Observations) -> int:
    return int(data.classes.max()) + 1 if "labels" in estimator.needs else 0


def _cell(value: str | float | int) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)
