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


def log_axis(axis: Any, say: Callable[[float], str], ticks: int = 6) -> None:
    """A logarithmic axis: its ticks at powers of ten, or between them where it is short."""
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low)
    if decades >= 2.3:
        step = max(1, math.ceil(decades / ticks))
        axis.set_major_locator(LogLocator(base=10.0**step if step > 1 else 10.0, numticks=20))
    else:
        between = (1, 1.5, 2, 3, 4, 5, 7) if decades <= 0.5 else (1, 2, 5) if ticks > 4 else (1, 3) if decades <= 1.2 else (1,)
        axis.set_major_locator(LogLocator(base=10.0, subs=between, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def linear_axis(axis: Any, say: Callable[[float], str], ticks: int = 5) -> None:
    """A linear axis with few ticks."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def fixed_axis(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks at given places and nowhere else."""
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels(list(labels))


def flops(value: float) -> str:
    """A power of ten of FLOPs."""
    return words.power(value, 0)


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
