"""What pictures have in common: axes in a reader's numbers, panels beside each other, a key of arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .. import words
from ..drawing import Paint
from ..view import View

#: Multipliers beyond which an axis does not go, and a ratio of its ends from which on it is logarithmic.
_WIDEST, _LINEAR = 10.0, 3.0


def log_axis(axis: Any, say: Callable[[float], str], ticks: int = 6) -> None:
    """A logarithmic axis: its ticks at powers of ten, or between them where it is short."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    if decades >= 2.3:
        step = max(1, math.ceil(decades / ticks))
        axis.set_major_locator(LogLocator(base=10.0**step if step > 1 else 10.0, numticks=20))
    elif decades <= 0.5:
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    else:
        between = (1, 2, 5) if ticks > 4 else (1, 3) if decades <= 1.2 else (1,)
        axis.set_major_locator(LogLocator(base=10.0, subs=between, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def linear_axis(axis: Any, say: Callable[[float], str], ticks: int = 5) -> None:
    """A linear axis with few ticks."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def ratio_limits(ends: Iterable[float]) -> tuple[float, float, bool]:
    """Ends of an axis of multipliers, and whether it is logarithmic: it is where they lie far apart.

    An interval may leave it: one that goes beyond :data:`_WIDEST` says no more there than that nothing is known.
    """
    kept = [min(_WIDEST, max(1 / _WIDEST, end)) for end in ends]
    low, high = min(kept), max(kept)
    if high < _LINEAR * low:
        return *widen(low, high), False
    low, high = widen(math.log(low), math.log(high))
    return math.exp(low), math.exp(high), True


def ratio_axis(axis: Any, limits: tuple[float, float, bool], ticks: int) -> None:
    """Ticks of an axis of multipliers, whose scale and ends are set."""
    low, high, logarithmic = limits
    if logarithmic:
        places = [each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= each <= high]
        fixed_axis(axis, places, [ratio(each) for each in places])
    else:
        linear_axis(axis, ratio, ticks)


def fixed_axis(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks at given places and nowhere else."""
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels(list(labels))


def apart(low: float, high: float) -> Callable[[float], str]:
    """Says numbers between two ends with so many digits that ticks differ."""
    digits = 3 if high <= low else max(3, 2 + math.ceil(math.log10(abs(high) / (high - low))))
    return lambda value: f"{value:.{digits}g}"


def flops(value: float) -> str:
    """FLOPs as a power of ten, with one digit more where the tick is between whole ones."""
    whole = math.isclose(float(f"{value:.0e}"), value, rel_tol=1e-6)
    return words.power(value, 0 if whole else 1)


def share(value: float) -> str:
    """A change of compute as a percentage, with no more digits than it needs."""
    return words.signed(f"{value:+.3g}") + f"{words.THIN}%" if abs(value) > 1e-9 else "0"


def ratio(value: float) -> str:
    """A multiplier, with no more digits than it needs."""
    return f"{value:.4g}"


def nats(value: float) -> str:
    """A difference of losses."""
    return words.signed(f"{value:+.4f}".rstrip("0").rstrip(".")) if abs(value) > 1e-9 else "0"


def panels(figure: Figure, number: int, columns: int) -> list[Axes]:
    """Panels with one scale for all; what is left of the last row stays empty."""
    rows = math.ceil(number / columns)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    flat = [axes for row in grid for axes in row]
    for axes in flat[number:]:
        axes.remove()
    for place in range(max(0, number - columns), number):
        flat[place].xaxis.set_tick_params(labelbottom=True)
    return flat[:number]


def key(figure: Figure, view: View, colours: Paint, arms: Iterable[str]) -> None:
    """Names and markers of arms above the panels."""
    handles = []
    for arm in arms:
        look = view.looks[arm]
        handles.append(Line2D([], [], color=colours[look.role], marker=look.marker, linewidth=1.2, label=arm))
    columns = 2 if colours.narrow else min(len(handles), 4)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.4, handletextpad=0.5)


def widen(low: float, high: float, room: float = 0.06) -> tuple[float, float]:
    """An interval with some room at both ends."""
    room = room * (high - low) or max(abs(high), 1.0) * room
    return low - room, high + room
