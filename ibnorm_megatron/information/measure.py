"""What an estimator says: a number, what it is relative to, and where it may be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Null:
    """The same number where there is no dependence: rows of one side permuted.

    Attributes:
        mean: over the permutations.
        low, high: the least and the greatest of them.
        permutations: how many.
    """

    mean: float
    low: float
    high: float
    permutations: int


@dataclass(frozen=True)
class Measure:
    """One estimate, or the reason why there is none.

    Attributes:
        quantity: what is estimated, in symbols: ``I(T; Y)``.
        estimator: its name.
        value: in ``unit``; NaN where there is none.
        low, high: the interval of 95 %; NaN where there is none.
        n: rows it was computed from, or prompts.
        d: width of the wider side.
        relative_to: the decoder, kernel or noise without which the number means nothing.
        reason: why value, or interval, is missing; what to know of it otherwise; may be empty.
        null: the permutation null, of estimators whose value is meaningless without it.
        details: further numbers by name: the entropy of labels, a ceiling.
        unit: of value, interval and null.
    """

    quantity: str
    estimator: str
    value: float
    n: int
    d: int
    relative_to: str
    low: float = math.nan
    high: float = math.nan
    reason: str = ""
    null: Null | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    unit: str = "nats"

    @property
    def excess(self) -> float:
        """What is above the mean of the permutation null; NaN without one."""
        return self.value - self.null.mean if self.null else math.nan

    @property
    def p(self) -> float:
        """Of independence: the share of permutations, the estimate counted as one, that reach it. NaN without."""
        return self.details.get("p", math.nan)

    def cells(self) -> dict[str, str | float | int]:
        """The columns of a table, the same for every estimator."""
        return {
            "quantity": self.quantity,
            "estimator": self.estimator,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "null": self.null.mean if self.null else math.nan,
            "excess": self.excess,
            "p": self.p,
            "unit": self.unit,
            "n": self.n,
            "d": self.d,
            "relative_to": self.relative_to,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Region:
    """Where an estimator was validated: ``benchmarks/information.py`` measures it, a test holds it to that table.

    Attributes:
        steps: pairs (width, rows): up to this width, at least so many rows. Widths beyond the last were not validated.
        most_rows: more are refused, because time and memory grow with their square or cube.
        rows_per_label: rows there have to be for each value of the labels, on average.
        what: the property that holds inside, in a few words.
    """

    steps: tuple[tuple[int, int], ...]
    what: str
    most_rows: int | None = None
    rows_per_label: float = 0.0

    @property
    def widest(self) -> int:
        """The widest that was validated; 0 where nothing was."""
        return self.steps[-1][0] if self.steps else 0

    def refusal(self, n: int, d: int, labels: int = 0) -> str:
        """Why ``n`` rows of width ``d`` with so many different labels are outside; empty inside."""
        least = next((rows for width, rows in self.steps if d <= width), None)
        if not self.steps:
            return f"no width and number of rows passed the validation ({self.what})"
        if least is None:
            return f"width {d} is above {self.steps[-1][0]}, the widest that was validated"
        if n < least:
            return f"{n} rows of width {d} are fewer than the {least} of the validated region"
        if self.most_rows is not None and n > self.most_rows:
            return f"{n} rows are more than {self.most_rows}, for which time and memory are bounded: take a sample"
        if labels and n < self.rows_per_label * labels:
            return f"{n / labels:.1f} rows for each of {labels} labels are fewer than the {self.rows_per_label:g} validated"
        return ""
