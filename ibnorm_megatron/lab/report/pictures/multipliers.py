"""The compute multiplier over compute: what was observed, and what is extrapolated, hatched."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from ...results import Estimate
from ..drawing import Paint
from ..view import View
from .axes import flops, log_axis, panels, ratio_axis, ratio_limits


def lacks(view: View) -> str:
    """Why there is nothing to draw."""
    return "" if any(each.at for each in view.analysis.multipliers) else "No surface could be fitted; the warnings say why."


def draw(view: View, paint: Paint) -> Figure:
    """A panel an arm. Ticks at the bottom are the sizes' longest runs."""
    found = [each for arm in view.compared if (each := view.multiplier(arm)) and each.at]
    columns = min(len(found), 2 if paint.narrow else 3)
    figure = paint.figure(1.6 * math.ceil(len(found) / columns) + 0.35)
    seen = [end for each in found for at in each.at for end in _ends(at.multiplier, at.extrapolated)]
    margin = view.analysis.equivalence
    limits = ratio_limits([1 - 1.2 * margin, 1 + 1.2 * margin, *seen])
    low, high, logarithmic = limits
    largest = {
        size: max((run.flops for run in view.analysis.observations if run.size == size), default=math.nan)
        for size in view.sizes
    }
    for axes, each in zip(panels(figure, len(found), columns), found, strict=True):
        look = view.looks[each.arm]
        colour = paint[look.role]
        axes.axhspan(1 - margin, 1 + margin, color=paint["band"], alpha=0.2, linewidth=0)
        axes.axhline(1, color=paint["ink"], linewidth=0.8)
        inside = [at for at in each.at if not at.extrapolated]
        edge = inside[-1].flops if inside else 0.0
        below = [at for at in each.at if at.extrapolated and at.flops < edge]
        beyond = [at for at in each.at if at.extrapolated and at.flops > edge]
        for part, outside in ((inside, False), ([*below, *inside[:1]] if below else [], True), ([*inside[-1:], *beyond], True)):
            if len(part) < 2:
                continue
            compute = [at.flops for at in part]
            lower = [max(low, at.multiplier.low) for at in part]
            upper = [min(high, at.multiplier.high) for at in part]
            value = [at.multiplier.value for at in part]
            if outside:
                axes.fill_between(
                    compute, lower, upper, facecolor="none", edgecolor=colour, hatch="////", alpha=0.5, linewidth=0
                )
            else:
                axes.fill_between(compute, lower, upper, color=colour, alpha=0.28, linewidth=0)
            axes.plot(compute, value, color=colour, linestyle="--" if outside else "-", linewidth=1.3)
        axes.plot(
            list(largest.values()),
            [0.03] * len(largest),
            "|",
            color=paint["ink"],
            markersize=6,
            transform=axes.get_xaxis_transform(),
        )
        for size, compute_of_it in largest.items():
            if math.isfinite(compute_of_it):
                axes.annotate(
                    size,
                    (compute_of_it, 0.06),
                    xycoords=axes.get_xaxis_transform(),
                    rotation=90,
                    ha="center",
                    va="bottom",
                    fontsize=7,
                    color=paint["soft"],
                )
        axes.set(xscale="log", yscale="log" if logarithmic else "linear", ylim=(low, high))
        axes.set_title(f"{look.glyph} {each.arm}", fontsize=7.5)
        log_axis(axes.xaxis, flops, 3)
        ratio_axis(axes.yaxis, limits, 4)
    figure.supxlabel("training compute, FLOPs", fontsize=8, color=paint["soft"])
    figure.supylabel("compute multiplier; better ↑", fontsize=8, color=paint["soft"])
    return figure


def _ends(estimate: Estimate, extrapolated: bool) -> list[float]:
    """What the scale has to hold: intervals where something was observed, and the line alone beyond."""
    value, low, high = estimate.value, estimate.low, estimate.high
    return [end for end in ((value,) if extrapolated else (value, low, high)) if math.isfinite(end)]
