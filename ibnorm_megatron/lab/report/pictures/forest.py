"""Every arm's compute multiplier and paired difference, with the identity control's band."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...results import Estimate
from ..drawing import Paint
from ..view import View
from .axes import fixed_axis, linear_axis, nats, ratio_axis, ratio_limits, widen


def lacks(view: View) -> str:
    """Why there is nothing to draw."""
    return "" if any(view.together(arm) or view.multiplier(arm) for arm in view.compared) else "No arm can be paired."


def rows(view: View) -> list[str]:
    """Arms from top to bottom: the best first, the control last."""
    others = [arm for arm in view.compared if arm != view.analysis.control]
    return sorted(others, key=lambda arm: _rank(view, arm)) + ([view.analysis.control] if view.analysis.control else [])


def draw(view: View, paint: Paint) -> Figure:
    """Two panels, better to the right in both: compute gained, and loss lowered."""
    arms = rows(view)
    fitted = bool(view.analysis.multipliers)
    panels = 1 + fitted
    high = 0.34 * len(arms) + 0.75
    figure = paint.figure(panels * high + 0.2 if paint.narrow else high + 0.1)
    grid = figure.subplots(panels if paint.narrow else 1, 1 if paint.narrow else panels, sharey=True, squeeze=False)
    axes = [each for row in grid for each in row]
    if fitted:
        _compute(view, paint, axes[0], arms)
    _paired(view, paint, axes[-1], arms)
    for each in axes if paint.narrow else axes[:1]:
        fixed_axis(each.yaxis, range(len(arms)), arms)
        each.tick_params(axis="y", labelleft=True, labelsize=8, labelcolor=paint["ink"])
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    for each in axes:
        each.grid(axis="y", visible=False)
        each.spines["left"].set_visible(False)
        each.tick_params(axis="y", length=0)
    return figure


def _compute(view: View, paint: Paint, axes: Axes, arms: list[str]) -> None:
    margin = view.analysis.equivalence
    gains = {arm: found.mean for arm in arms if (found := view.multiplier(arm))}
    _band(view, paint, axes, gains.get(view.analysis.control or ""))
    for end in (1 - margin, 1 + margin):
        axes.axvline(end, color=paint["soft"], linewidth=0.8, linestyle=(0, (4, 3)))
    seen = [end for each in gains.values() for end in (each.low, each.high, each.value) if math.isfinite(end)]
    limits = ratio_limits([1 - 1.3 * margin, 1 + 1.3 * margin, *seen])
    if limits[2]:
        axes.set_xscale("log")
    _rows(view, paint, axes, arms, {arm: [found] for arm, found in gains.items()}, limits[:2], zero=1.0)
    ratio_axis(axes.xaxis, limits, 5)
    axes.set(title="Compute multiplier", xlabel="times the compute; better →")


def _paired(view: View, paint: Paint, axes: Axes, arms: list[str]) -> None:
    found = {arm: pair for arm in arms if (pair := view.together(arm))}
    control = found.get(view.analysis.control or "")
    _band(view, paint, axes, control.by_t if control else None)
    pairs = {arm: [pair.by_t, pair.by_signs] for arm, pair in found.items()}
    ends = [end for each in pairs.values() for one in each for end in (one.low, one.high, one.value) if math.isfinite(end)]
    _rows(view, paint, axes, arms, pairs, widen(min([0.0, *ends]), max([0.0, *ends])))
    axes.invert_xaxis()
    linear_axis(axes.xaxis, nats, 4)
    axes.set(title="Loss, paired by seed", xlabel="nats a token from the baseline's; better →")


def _rows(
    view: View,
    paint: Paint,
    axes: Axes,
    arms: list[str],
    found: dict[str, list[Estimate]],
    limits: tuple[float, float],
    zero: float = 0.0,
) -> None:
    """A line and a mark an arm; a second interval is a thin line below. What goes beyond the panel ends at its edge."""
    low, high = limits
    axes.axvline(zero, color=paint["ink"], linewidth=0.8)
    for place, arm in enumerate(arms):
        look = view.looks[arm]
        for number, each in enumerate(found.get(arm, [])):
            left, right = max(each.low, low), min(each.high, high)
            width, height = (2.2, place) if number == 0 else (0.9, place + 0.2)
            axes.plot([left, right], [height] * 2, color=paint[look.role], solid_capstyle="butt", linewidth=width)
        if arm in found:
            axes.plot(found[arm][0].value, place, look.marker, color=paint[look.role], markersize=6.5, markeredgecolor="none")
        else:
            axes.text(zero, place, " no run to compare", va="center", fontsize=7.5, color=paint["soft"])
    axes.set_xlim(low, high)


def _band(view: View, paint: Paint, axes: Axes, control: Estimate | None) -> None:
    if control is not None and math.isfinite(control.low) and math.isfinite(control.high):
        axes.axvspan(control.low, control.high, color=paint["band"], alpha=0.28, linewidth=0)


def _rank(view: View, arm: str) -> float:
    multiplier, pair = view.multiplier(arm), view.together(arm)
    if multiplier and math.isfinite(multiplier.mean.value):
        return -multiplier.mean.value
    return pair.by_t.value if pair else math.inf
