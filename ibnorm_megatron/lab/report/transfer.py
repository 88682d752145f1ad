"""Whether the learning rate that was tuned at one size is near the best at the largest: what the check stage says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from . import words
from .view import Run, View


@dataclass(frozen=True)
class Checked:
    """A run of the check stage beside the main run at the transferred rate, of the same size, length and seed.

    ``factor`` is its rate over the transferred one, ``difference`` its loss minus that run's; NaN where there is none yet.
    """

    run: Run
    factor: float
    difference: float


def checked(view: View, arm: str) -> list[Checked]:
    """An arm's checks, by rate."""
    found = []
    for run in view.of(arm, "check"):
        same = [
            other
            for other in view.of(arm, "main")
            if run.trial and other.trial and _place(other) == _place(run) and math.isfinite(other.loss)
        ]
        beside = same[0] if same else None
        factor = run.trial.learning_rate / beside.trial.learning_rate if beside and run.trial and beside.trial else math.nan
        found.append(Checked(run, factor, run.loss - beside.loss if beside else math.nan))
    return sorted(found, key=lambda each: each.run.trial.learning_rate if each.run.trial else 0.0)


def _place(run: Run) -> tuple[object, ...]:
    return run.size, run.seed, run.trial and run.trial.horizon


def remark(view: View) -> Iterator[str]:
    """A sentence where another rate than the transferred one gave an arm a lower loss at the largest size."""
    better = [(arm, each) for arm in view.arms for each in checked(view, arm) if each.difference < 0]
    if better:
        size = better[0][1].run.size
        said = [f"{arm} by {-each.difference:.4f} nats at {each.factor:.3g} times the rate" for arm, each in better]
        yield (
            f"At {size} a run at another learning rate than the transferred one ended lower: {words.listing(said)}. By so much "
            "these arms may be better there than this comparison shows."
        )
