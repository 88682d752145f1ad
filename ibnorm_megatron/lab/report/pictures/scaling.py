"""Loss against compute: all arms at once, and what each differs by from the baseline, with bands."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...results import Surface
from ..drawing import Paint
from ..view import View
from .axes import apart, flops, key, linear_axis, log_axis, nats, panels, widen

#: Times the largest mean difference at which bands are cut: two seeds give intervals beside which no mean can be seen.
_REACH = 4.0


def lacks(view: View) -> str:
    """Why there is nothing to draw."""
    return (
        "" if any(math.isfinite(each.loss) for each in view.analysis.observations) else "No run of the main stage is complete."
    )


def lacks_difference(view: View) -> str:
    """Why there is nothing to draw of differences."""
    return "" if any(view.cells(arm) for arm in view.compared) else "No arm can be paired with the baseline by seed."


def draw(view: View, paint: Paint) -> Figure:
    """A point a run, a line through the means of every size and a band that holds its seeds; the fitted surface behind."""
    figure = paint.figure(3.7 if paint.narrow else 3.9)
    axes = figure.subplots()
    drawn = set()
    for arm in view.arms:
        look = view.looks[arm]
        for size in view.sizes:
            found = [
                each
                for each in view.analysis.observations
                if each.arm == arm and each.size == size and math.isfinite(each.loss)
            ]
            if not found:
                continue
            drawn.add(arm)
            points = axes.scatter(
                [each.flops for each in found],
                [each.loss for each in found],
                s=14,
                color=paint[look.role],
                marker=look.marker,
                alpha=0.75,
                linewidths=0,
                zorder=3,
            )
            points.set_urls([f"#{view.anchor_of(each)}" for each in found])
            means = defaultdict(list)
            for each in found:
                means[each.tokens].append((each.flops, each.loss))
            line = sorted(np.mean(near, axis=0).tolist() for near in means.values())
            axes.plot(*zip(*line, strict=True), color=paint[look.role], linewidth=1, alpha=0.8)
            ends = sorted((near[0][0], min(loss for _, loss in near), max(loss for _, loss in near)) for near in means.values())
            axes.fill_between(*zip(*ends, strict=True), color=paint[look.role], alpha=0.18, linewidth=0)
    if view.analysis.surface:
        _surface(view, view.analysis.surface, paint, axes)
    axes.set(xscale="log", yscale="log", xlabel="training compute, FLOPs", ylabel="validation loss, nats a token")
    log_axis(axes.xaxis, flops, 4 if paint.narrow else 6)
    log_axis(axes.yaxis, apart(*sorted(axes.get_ylim())))
    for size in view.sizes:
        near = [each for each in view.analysis.observations if each.size == size and math.isfinite(each.loss)]
        if near:
            top = min(near, key=lambda each: each.flops)
            axes.annotate(
                size, (top.flops, top.loss), xytext=(5, 6), textcoords="offset points", fontsize=7.5, color=paint["soft"]
            )
    key(figure, view, paint, [arm for arm in view.arms if arm in drawn])
    return figure


def draw_difference(view: View, paint: Paint) -> Figure:
    """A panel an arm, a line a size: the mean difference from the baseline at every horizon, Student's interval as a band."""
    arms = [arm for arm in view.compared if view.cells(arm)]
    columns = min(len(arms), 2 if paint.narrow else 3)
    figure = paint.figure(1.55 * math.ceil(len(arms) / columns) + 0.35)
    bands = {arm: _cells(view, arm) for arm in arms}
    ends = [end for found in bands.values() for cell in found for end in cell[2:] if math.isfinite(end)]
    reach = _REACH * max((abs(cell[2]) for found in bands.values() for cell in found), default=0.0)
    ends = [max(-reach, min(reach, end)) for end in ends]
    low, high = widen(min([0.0, *ends]), max([0.0, *ends]))
    for axes, arm in zip(panels(figure, len(arms), columns), arms, strict=True):
        look = view.looks[arm]
        axes.axhline(0, color=paint["ink"], linewidth=0.8)
        for size in view.sizes:
            of_size = [cell[1:] for cell in bands[arm] if cell[0] == size]
            if not of_size:
                continue
            compute, mean, lower, upper = (np.array(column) for column in zip(*of_size, strict=True))
            axes.fill_between(
                compute, np.clip(lower, low, high), np.clip(upper, low, high), color=paint[look.role], alpha=0.22, linewidth=0
            )
            if len(compute) == 1:  # a band of one end has no width
                axes.vlines(compute, np.clip(lower, low, high), np.clip(upper, low, high), color=paint[look.role], alpha=0.4)
            axes.plot(compute, mean, color=paint[look.role], marker=look.marker, markersize=4.5)
        axes.set(xscale="log", ylim=(low, high))
        axes.set_title(arm, fontsize=7.5)
        log_axis(axes.xaxis, flops, 3)
        linear_axis(axes.yaxis, nats, 4)
    figure.supxlabel("training compute, FLOPs", fontsize=8, color=paint["soft"])
    figure.supylabel("nats a token; better ↓", fontsize=8, color=paint["soft"])
    return figure


def _cells(view: View, arm: str) -> list[tuple[str, float, float, float, float]]:
    """Size, compute, mean difference and its interval, by compute; no interval (NaN) where there is one pair alone."""
    found = []
    for cell in view.cells(arm):
        low, high = (end if math.isfinite(end) else math.nan for end in (cell.by_t.low, cell.by_t.high))
        found.append((cell.size or "", view.flops_of(cell), cell.by_t.value, low, high))
    return sorted((each for each in found if math.isfinite(each[1]) and math.isfinite(each[2])), key=lambda each: each[1])


def _surface(view: View, fit: Surface, paint: Paint, axes: Axes) -> None:
    for size, parameters in view.sizes.items():
        near = [each for each in view.analysis.observations if each.size == size]
        if len({each.tokens for each in near}) < 2:
            continue
        ratio = near[0].flops / near[0].tokens
        tokens = np.geomspace(min(each.tokens for each in near), max(each.tokens for each in near), 40)
        loss = fit.E.value + fit.A.value * parameters**-fit.alpha.value + fit.B.value * tokens**-fit.beta.value
        axes.plot(tokens * ratio, loss, color=paint["soft"], linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
