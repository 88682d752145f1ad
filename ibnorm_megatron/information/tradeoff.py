"""The information bottleneck's value I(T; Y) - beta I(X; T) as a curve (Tishby, Pereira and Bialek, arXiv physics/0004057).

One beta decides nothing: with another one the order of two models may be the opposite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .measure import Measure

#: From "only what predicts" to "a nat kept costs a nat predicted".
BETAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """The curve at one beta.

    Attributes:
        beta: the price of a nat about X.
        value: I(T; Y) - beta I(X; T); NaN where either is.
        low, high: see :func:`information_bottleneck`; NaN where either interval is missing.
        reason: what is missing.
    """

    beta: float
    value: float
    low: float
    high: float
    reason: str


def information_bottleneck(of_y: Measure, of_x: Measure, betas: Sequence[float] = BETAS) -> list[Point]:
    """The curve of two estimates.

    Both come from the same activations, and how their errors correlate is unknown. The interval adds half-widths: the deviation
    of A - beta B is at most that of A plus beta that of B whatever the correlation, so that for normal errors it covers
    at least as often as the two intervals do.

    Args:
        of_y: I(T; Y), in nats.
        of_x: I(X; T), in nats.

    Raises:
        ValueError: a beta is negative, or units differ.
    """
    if any(beta < 0 for beta in betas):
        raise ValueError(f"betas are {list(betas)}: give none below 0")
    if of_y.unit != of_x.unit:
        raise ValueError(f"units are {of_y.unit} and {of_x.unit}: give both in nats")
    said = (f"{one.quantity}: {one.reason}" for one in (of_y, of_x) if one.reason and (_lacks(one)))
    reason = "; ".join(said)
    points = []
    for beta in betas:
        value = of_y.value - beta * of_x.value
        below = math.nan if _lacks(of_y) or _lacks(of_x) else of_y.value - of_y.low + beta * (of_x.high - of_x.value)
        above = math.nan if _lacks(of_y) or _lacks(of_x) else of_y.high - of_y.value + beta * (of_x.value - of_x.low)
        points.append(Point(beta, value, value - below, value + above, reason))
    return points


def _lacks(one: Measure) -> bool:
    return math.isnan(one.value) or math.isnan(one.low) or math.isnan(one.high)
