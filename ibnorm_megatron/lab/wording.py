"""Numbers of a verdict in words: shares of compute from multipliers, nats, intervals in the direction of their value."""

from __future__ import annotations

import math

from .results import Estimate


def amount(multiplier: Estimate, of: str = "compute") -> str:
    """1.05 as 4.8 % less compute: what is needed is 1 / 1.05 of the baseline's."""
    value = multiplier.value
    return f"{percent(abs(_saved(value)))} {'less' if value > 1 else 'more'} {of}"


def interval(multiplier: Estimate) -> str:
    """The 95 % interval of :func:`amount`, in the direction of the value where it does not hold 0."""
    return _interval(_saved(multiplier.low), _saved(multiplier.high), multiplier, "more", "less")


def change(ratio: Estimate) -> str:
    """The 95 % interval of a ratio's distance from 1, in the direction of the value where it does not hold 0."""
    return _interval(ratio.low - 1, ratio.high - 1, ratio, "less", "more")


def _interval(low: float, high: float, ratio: Estimate, below: str, above: str) -> str:
    if ratio.low <= 0 and math.isinf(ratio.high):
        return "no interval, since there are too few runs for one"
    if low > 0 or high < 0:
        near, far = sorted((abs(low), abs(high)))
        return f"95 % interval {_number(near)} to {_number(far)}"
    return f"95 % interval {_number(abs(low))} {below} to {_number(abs(high))} {above}"


def _saved(multiplier: float) -> float:
    """The share of compute that is not needed, negative where more is: what is needed is 1 / m of the baseline's."""
    return 1 - 1 / multiplier if multiplier > 0 else -math.inf


def _number(share: float) -> str:
    return "unbounded" if math.isinf(share) else f"{100 * share:.1f}" if share < 1 else f"{100 * share:.0f}"


def percent(share: float) -> str:
    """0.0312 as 3.1 %."""
    return f"{_number(share)} %"


def margin(share: float) -> str:
    """A share that somebody has chosen: 0.01 as 1 %."""
    return f"{100 * share:.3g} %"


def p(value: float) -> str:
    """A probability, never 0."""
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def flops(value: float) -> str:
    """1.2e14."""
    return f"{value:.1e}".replace("e+", "e").replace(".0e", "e")


def pairs(number: int) -> str:
    """1 pair, 2 pairs."""
    return f"{number} pair{'' if number == 1 else 's'}"


def difference(value: float) -> str:
    """-0.0123 as 0.0123 nats lower."""
    return f"{_nats(abs(value))} nats {'lower' if value < 0 else 'higher'}" if value else "no lower and no higher"


def span(between: Estimate) -> str:
    """The interval of :func:`difference`, in the direction of the value where it does not hold 0."""
    low, high = between.low, between.high
    if math.isinf(low):
        return "unbounded, since nobody knows the spread of such differences"
    if low * high > 0:
        return " to ".join(_nats(end) for end in sorted((abs(low), abs(high))))
    return f"{_nats(abs(low))} lower to {_nats(abs(high))} higher"


def _nats(value: float) -> str:
    """Four decimals, and of what is less than one of a thousand two digits that count."""
    return f"{value:.4f}" if 0.001 <= value < 1000 or value == 0 else f"{value:.2g}"
