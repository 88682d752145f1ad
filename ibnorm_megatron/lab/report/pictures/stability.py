"""Gradient norms of every main run, and what diverged."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from ..drawing import Paint
from ..view import View
from .axes import fixed_axis, log_axis

#: Names in a run's summary.
MEDIAN, MAXIMUM = "grad_norm_median", "grad_norm_max"


def lacks(view: View) -> str:
    """Why there is nothing to draw."""
    found = any(math.isfinite(run.found(MAXIMUM)) for arm in view.arms for run in view.of(arm, "main"))
    return "" if found else "No run's gradient norm was recorded."


def draw(view: View, paint: Paint) -> Figure:
    """A row an arm: runs' median gradient norms hollow, their largest filled; a cross at the edge for a run that diverged."""
    arms = view.arms
    figure = paint.figure(0.3 * len(arms) + 0.75)
    axes = figure.subplots()
    axes.set_xscale("log")
    for row, arm in enumerate(arms):
        look, runs = view.looks[arm], view.of(arm, "main")
        for name, shift, face in ((MEDIAN, -0.17, "none"), (MAXIMUM, 0.17, paint[look.role])):
            found = [run for run in runs if run.found(name) > 0]
            axes.scatter(
                [run.found(name) for run in found],
                [row + shift] * len(found),
                s=18,
                marker=look.marker,
                facecolors=face,
                edgecolors=paint[look.role],
                linewidths=0.8,
                alpha=0.8,
                urls=[f"#{run.anchor}" for run in found],
            )
        for run in runs:
            if run.status == "diverged":
                axes.scatter(
                    [0.985],
                    [row],
                    marker="x",
                    s=34,
                    color=paint["bad"],
                    linewidths=1.8,
                    transform=axes.get_yaxis_transform(),
                    urls=[f"#{run.anchor}"],
                )
    low, high = axes.get_xlim()
    axes.set(xlim=(low, high * (high / low) ** 0.08), ylim=(len(arms) - 0.4, -0.6), xlabel="norm of the gradient")
    log_axis(axes.xaxis, lambda value: f"{value:.3g}")
    fixed_axis(axes.yaxis, range(len(arms)), arms)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=paint["ink"])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return figure
