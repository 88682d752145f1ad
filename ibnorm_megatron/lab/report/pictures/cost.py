"""What a step costs: throughput and memory, from the baseline's."""

from __future__ import annotations

import math
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing import Paint
from ..view import Run, View
from .axes import fixed_axis, linear_axis, share, widen

#: Names in a run's summary.
SPEED, MEMORY = "tokens_per_second", "peak_memory_bytes"


def lacks(view: View) -> str:
    """Why there is nothing to draw."""
    found = any(ratios(view, arm, name) for arm in view.compared for name in (SPEED, MEMORY))
    return "" if found else "No run's throughput or memory was recorded."


def ratios(view: View, arm: str, name: str) -> list[tuple[float, Run]]:
    """A figure of an arm's main runs over that of the baseline's run of the same size, length and seed."""
    base = {(run.size, run.seed, run.tokens): run.found(name) for run in view.of(view.analysis.baseline, "main")}
    pairs = [(run.found(name) / base.get((run.size, run.seed, run.tokens), math.nan), run) for run in view.of(arm, "main")]
    return [(ratio, run) for ratio, run in pairs if math.isfinite(ratio)]


def middle(view: View, arm: str, size: str, name: str) -> float:
    """The median of a figure over an arm's main runs of a size."""
    found = [value for run in view.of(arm, "main") if run.size == size and math.isfinite(value := run.found(name))]
    return median(found) if found else math.nan


def draw(view: View, paint: Paint) -> Figure:
    """Two panels, a row an arm, a point a pair of runs, a line at the median."""
    arms = list(view.compared)
    high = 0.3 * len(arms) + 0.75
    figure = paint.figure(2 * high if paint.narrow else high)
    grid = figure.subplots(2 if paint.narrow else 1, 1 if paint.narrow else 2, sharey=True, squeeze=False)
    axes = [each for row in grid for each in row]
    _panel(view, paint, axes[0], SPEED, "Tokens a second", "from the baseline's; better →")
    _panel(view, paint, axes[1], MEMORY, "Peak memory", "from the baseline's; ← better")
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    for each in axes if paint.narrow else axes[:1]:
        fixed_axis(each.yaxis, range(len(arms)), arms)
        each.tick_params(axis="y", labelleft=True, labelsize=8, labelcolor=paint["ink"])
    for each in axes:
        each.grid(axis="y", visible=False)
        each.spines["left"].set_visible(False)
        each.tick_params(axis="y", length=0)
    return figure


def _panel(view: View, paint: Paint, axes: Axes, name: str, title: str, label: str) -> None:
    ends = [0.0]
    axes.axvline(0, color=paint["ink"], linewidth=0.8)
    for row, arm in enumerate(view.compared):
        look, found = view.looks[arm], ratios(view, arm, name)
        values = [100 * (ratio - 1) for ratio, _ in found]
        ends += values
        urls = [f"#{run.anchor}" for _, run in found]
        axes.scatter(
            values, [row] * len(values), s=16, marker=look.marker, color=paint[look.role], alpha=0.45, linewidths=0, urls=urls
        )
        if values:
            axes.plot([median(values)] * 2, [row - 0.28, row + 0.28], color=paint[look.role], linewidth=2)
    if len(ends) == 1:
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", color=paint["soft"], transform=axes.transAxes)
    axes.set_xlim(*widen(min(*ends, -0.5), max(*ends, 0.5)))
    linear_axis(axes.xaxis, share, 4)
    axes.set(title=title, xlabel=label)
