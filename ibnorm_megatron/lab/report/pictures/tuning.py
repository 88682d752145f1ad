"""Tuning: the loss at every learning rate of every arm, and the loss over lambda."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...arms import own_lambdas
from .. import words
from ..drawing import Paint
from ..view import REALISED, Run, View
from .axes import fixed_axis, linear_axis, log_axis, widen

#: Nats above the arm's best at which a cell has the full colour, where none is as far above.
_FULL = 0.02


def lacks(view: View) -> str:
    """Why there is no heatmap."""
    return "" if _rates(view) else "No trial of a learning rate is in the ledger."


def lacks_strength(view: View) -> str:
    """Why there is nothing over lambda."""
    return "" if any(strengths(view, arm) for arm in view.arms) else "No arm's lambda was tuned."


def lacks_realised(view: View) -> str:
    """Why there is nothing over sigma / lambda."""
    if lacks_strength(view):
        return lacks_strength(view)
    runs = [run for arm in view.arms for found in strengths(view, arm).values() for run in found]
    if any(math.isfinite(run.found(REALISED)) for run in runs):
        return ""
    return f"Not measured: no run's summary has {REALISED}, the realised ratio of an activation's spread to lambda."


def cells(view: View, arm: str) -> dict[float, list[Run]]:
    """An arm's trials at its own lambda, by learning rate."""
    found = defaultdict(list)
    for run in view.of(arm, "tune", "further"):
        if run.trial and run.trial.strength is None:
            found[run.trial.learning_rate].append(run)
    return dict(sorted(found.items()))


def strengths(view: View, arm: str) -> dict[float, list[Run]]:
    """An arm's trials whose lambda the study set, by lambda."""
    found = defaultdict(list)
    for run in view.of(arm, "tune", "further"):
        if run.trial and run.trial.strength is not None:
            found[run.trial.strength].append(run)
    return dict(sorted(found.items()))


def own(view: View, arm: str) -> list[Run]:
    """Trials with the norm's own lambda at the rates at which others were tried."""
    rates = {run.trial.learning_rate for runs in strengths(view, arm).values() for run in runs if run.trial}
    return [run for rate, runs in cells(view, arm).items() if rate in rates for run in runs]


def own_lambda(view: View, arm: str) -> float | None:
    """The lambda that an arm's norm has by itself, where there is one."""
    given = view.study.config.arms.get(arm) if view.study else None
    found = own_lambdas(given.norm) if given else set()
    return found.pop() if len(found) == 1 else None


def strengths_and_own(view: View, arm: str) -> dict[float, list[Run]]:
    """Trials of lambda, those with the norm's own among them where it is known."""
    found, known = strengths(view, arm), own_lambda(view, arm)
    if found and known is not None and (runs := own(view, arm)):
        found[known] = runs
    return dict(sorted(found.items()))


def mean_loss(runs: Sequence[Run]) -> float:
    """Over seeds; infinite where one of them diverged, NaN where none is complete."""
    if any(run.status == "diverged" for run in runs):
        return math.inf
    losses = [run.loss for run in runs if math.isfinite(run.loss)]
    return sum(losses) / len(losses) if losses else math.nan


def trials(view: View, arm: str) -> int:
    """How many an arm had."""
    return len(view.of(arm, "tune", "further"))


def draw(view: View, paint: Paint) -> Figure:
    """Rows are arms, columns learning rates; the colour is how far above the arm's best, the frame is what was chosen."""
    rates, arms = _rates(view), [arm for arm in view.arms if cells(view, arm)]
    figure = paint.figure((0.37 if paint.narrow else 0.34) * len(arms) + 0.85)
    axes = figure.subplots()
    full = max([_FULL, *(_above(view, arm) for arm in arms)])
    for row, arm in enumerate(arms):
        found = {rate: mean_loss(runs) for rate, runs in cells(view, arm).items()}
        best = min((loss for loss in found.values() if math.isfinite(loss)), default=math.nan)
        choice = view.choice(arm)
        for rate, loss in found.items():
            chosen = (
                choice is not None
                and choice.learning_rate is not None
                and math.isclose(choice.learning_rate, rate, rel_tol=1e-6)
            )
            _cell(
                view,
                paint,
                axes,
                (rates.index(rate), row),
                (loss, (loss - best) / full),
                f"#{cells(view, arm)[rate][0].anchor}",
                chosen,
            )
        text = f"{trials(view, arm)}"
        axes.text(len(rates) - 0.3, row, text, va="center", fontsize=7.5, color=paint["ink"])
    axes.text(len(rates) - 0.3, -0.85, "trials", va="center", fontsize=7.5, color=paint["soft"])
    axes.set(
        xlim=(-0.5, len(rates) + (0.6 if paint.narrow else 0.2)), ylim=(len(arms) - 0.5, -0.55), xlabel="peak learning rate"
    )
    labels = [words.rate(rate) if not paint.narrow else _short(rate) for rate in rates]
    fixed_axis(axes.xaxis, range(len(rates)), labels)
    if paint.narrow and len(rates) > 5:
        axes.tick_params(axis="x", labelrotation=60)
    fixed_axis(axes.yaxis, range(len(arms)), arms)
    axes.tick_params(axis="y", labelsize=7 if paint.narrow else 8, labelcolor=paint["ink"])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def draw_strength(view: View, paint: Paint) -> Figure:
    """The loss over lambda, one line an arm; dashed: the same learning rate with the norm's own lambda."""
    figure = paint.figure(2.7)
    axes = figure.subplots()
    arms = [arm for arm in view.arms if strengths(view, arm)]
    for arm in arms:
        points = [(strength, mean_loss(runs), f"#{runs[0].anchor}") for strength, runs in strengths_and_own(view, arm).items()]
        known, loss = own_lambda(view, arm), mean_loss(own(view, arm))
        _line(view, paint, axes, arm, points, {known} if known is not None else set())
        if known is None and math.isfinite(loss):
            axes.axhline(loss, color=paint[view.looks[arm].role], linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.8)
    _finish(figure, axes, "lambda")
    return figure


def draw_realised(view: View, paint: Paint) -> Figure:
    """The loss over the realised sigma / lambda, a point a run."""
    figure = paint.figure(2.7)
    axes = figure.subplots()
    for arm in view.arms:
        runs = [*(run for found in strengths(view, arm).values() for run in found), *own(view, arm)]
        runs = [run for run in runs if math.isfinite(run.found(REALISED)) and math.isfinite(run.loss)]
        ringed = {run.found(REALISED) for run in runs if run.trial and run.trial.strength is None}
        _line(view, paint, axes, arm, sorted((run.found(REALISED), run.loss, f"#{run.anchor}") for run in runs), ringed)
    _finish(figure, axes, "realised sigma / lambda")
    return figure


def _line(view: View, paint: Paint, axes: Axes, arm: str, points: list[tuple[float, float, str]], ringed: set[float]) -> None:
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return
    look = view.looks[arm]
    x, y, urls = zip(*points, strict=True)
    axes.plot(x, y, color=paint[look.role], linewidth=1.2)
    axes.scatter(x, y, color=paint[look.role], marker=look.marker, s=30, linewidths=0, label=arm, zorder=3, urls=urls)
    rings = [point for point in points if point[0] in ringed]
    if rings:
        x, y, _ = zip(*rings, strict=True)
        axes.scatter(x, y, s=95, facecolors="none", edgecolors=paint[look.role], linewidths=1.1, zorder=3)


def _finish(figure: Figure, axes: Axes, label: str) -> None:
    axes.set(xscale="log", xlabel=label, ylabel="validation loss, nats a token")
    axes.set_xlim(*(10**end for end in widen(*(math.log10(end) for end in axes.get_xlim()))))
    log_axis(axes.xaxis, lambda value: f"{value:.3g}")
    linear_axis(axes.yaxis, lambda value: f"{value:.6g}")
    figure.legend(loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.2)


def _cell(
    view: View, paint: Paint, axes: Axes, place: tuple[int, int], losses: tuple[float, float], url: str, chosen: bool
) -> None:
    """One box: its colour, its loss, its frame."""
    (column, row), (loss, above) = place, losses
    above = max(0.0, min(1.0, above)) if not math.isnan(above) else 0.0
    colour = paint["bad"] if math.isinf(loss) else paint["heat"]
    box = Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, facecolor=colour, alpha=0.05 + 0.5 * above, linewidth=0, url=url)
    axes.add_patch(box)
    if chosen:
        axes.add_patch(
            Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, fill=False, edgecolor=paint["ink"], linewidth=1.6, zorder=4)
        )
    text = "div." if math.isinf(loss) else words.loss(loss, 2 if paint.narrow else 3)
    size = 7.2 if paint.narrow else 7.5
    axes.text(column, row, text, ha="center", va="center", fontsize=size, color=paint["ink"], url=url)


def _above(view: View, arm: str) -> float:
    """How far an arm's worst finite loss is above its best."""
    finite = [loss for runs in cells(view, arm).values() if math.isfinite(loss := mean_loss(runs))]
    return max(finite) - min(finite) if finite else 0.0


def _rates(view: View) -> list[float]:
    return sorted({rate for arm in view.arms for rate in cells(view, arm)})


def _short(rate: float) -> str:
    """A learning rate in four characters at most."""
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
