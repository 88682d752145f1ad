"""Pictures with what stands beside them: a caption, a description for who cannot see them, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from . import words
from .drawing import Paint, Picture, paint
from .pictures import cost, forest, multipliers, scaling, stability, tuning
from .view import View


@dataclass(frozen=True)
class Plan:
    """A picture that a report may have."""

    name: str
    draw: Callable[[View, Paint], Figure]
    lacks: Callable[[View], str]
    caption: Callable[[View], str]
    describe: Callable[[View], str]


@dataclass(frozen=True)
class Shown:
    """A picture of this report; ``picture`` is none where ``missing`` says why."""

    name: str
    caption: str
    description: str
    picture: Picture | None
    missing: str


def draw_all(view: View) -> dict[str, Shown]:
    """Every picture for which there is something to draw, and the reason for every other one."""
    return {plan.name: _shown(view, plan) for plan in _PLANS}


def _shown(view: View, plan: Plan) -> Shown:
    missing = plan.lacks(view)
    if missing:
        return Shown(plan.name, "", "", None, missing)
    stamp = f"interim: {view.progress}" if view.interim else ""
    picture = paint(plan.name, partial(plan.draw, view), view.titles, stamp)
    return Shown(plan.name, plan.caption(view), plan.describe(view), picture, "")


def _forest_caption(view: View) -> str:
    baseline, control = view.analysis.baseline, view.analysis.control
    text = (
        "Lines are 95 % intervals, Student’s where losses are paired; the thin line below is the sign-flip permutation test’s."
    )
    if view.analysis.multipliers:
        margin = words.margin(view.analysis.equivalence)
        worth = f"A multiplier of 1.05 says that {baseline} needs 1.05 times the compute for the same loss."
        text = f"{worth} {text} Dashed: the margin of {margin} below which a difference is called none."
    if control:
        return f"{text} Grey band: {control}, the baseline by another code path: what is seen where there is nothing to see."
    return f"{text} There is no identity control, so the comparison’s own noise is not known."


def _forest_description(view: View) -> str:
    parts = []
    for arm in forest.rows(view):
        found, pair = view.multiplier(arm), view.together(arm)
        if found:
            parts.append(f"{arm} {words.multiplier(found.mean)}")
        elif pair:
            parts.append(f"{arm} {words.with_interval(pair.by_t, sign=True)} nats")
    return f"Forest plot of compute multipliers, or losses, against {view.analysis.baseline}: {'; '.join(parts)}."


def _scaling_caption(view: View) -> str:
    text = (
        "A point is a run, a line goes through the means of a size over its lengths of training, and its band holds all seeds."
    )
    dotted = f" Dotted: the fitted surface at {view.analysis.baseline}." if view.analysis.surface else ""
    return f"{text}{dotted} Arms that cover each other differ by less than this picture can show: the next one does."


def _scaling_description(view: View) -> str:
    losses = [each.loss for each in view.analysis.observations if math.isfinite(each.loss)]
    flops = [each.flops for each in view.analysis.observations if math.isfinite(each.loss)]
    return (
        f"Loss of {words.plural(len(losses), 'run')} from {words.power(min(flops))} to {words.power(max(flops))} FLOPs; it is "
        f"{words.loss(max(losses), 3)} at most and {words.loss(min(losses), 3)} at least."
    )


def _difference_description(view: View) -> str:
    parts = []
    for arm in view.compared:
        cells = sorted((cell for cell in view.cells(arm)), key=view.flops_of)
        if cells:
            parts.append(f"{arm} from {words.difference(cells[0].by_t.value)} to {words.difference(cells[-1].by_t.value)}")
    return f"Mean difference from {view.analysis.baseline}, from the least to the most compute, nats: {'; '.join(parts)}."


def _multiplier_description(view: View) -> str:
    parts = []
    for each in view.analysis.multipliers:
        inside = [at for at in each.at if not at.extrapolated]
        if inside:
            parts.append(
                f"{each.arm} from {words.multiplier(inside[0].multiplier)} to {words.multiplier(inside[-1].multiplier)}"
            )
    return f"Compute multipliers at the least and at the most compute that was observed: {'; '.join(parts)}."


def _tuning_description(view: View) -> str:
    parts = []
    for arm in view.arms:
        losses = {rate: tuning.mean_loss(runs) for rate, runs in tuning.cells(view, arm).items()}
        finite = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
        if finite:
            best = min(finite, key=lambda rate: finite[rate])
            parts.append(f"{arm} {words.loss(finite[best])} at {words.rate(best)}")
    return f"Lowest loss of every arm over learning rates: {'; '.join(parts)}."


def _strength_description(view: View) -> str:
    arms = [arm for arm in view.arms if tuning.strengths(view, arm)]
    return f"Loss over lambda of {words.listing(arms)}; the table has the numbers."


def _cost_description(view: View) -> str:
    parts = []
    for arm in view.compared:
        speeds = sorted(ratio for ratio, _ in cost.ratios(view, arm, cost.SPEED))
        if speeds:
            parts.append(f"{arm} {words.percent(speeds[len(speeds) // 2] - 1)}")
    return f"Median tokens a second from {view.analysis.baseline}'s: {'; '.join(parts)}."


_PLANS = (
    Plan("forest", forest.draw, forest.lacks, _forest_caption, _forest_description),
    Plan("loss", scaling.draw, scaling.lacks, _scaling_caption, _scaling_description),
    Plan(
        "difference",
        scaling.draw_difference,
        scaling.lacks_difference,
        lambda view: (
            f"Loss minus that of {view.analysis.baseline}, paired by size, length and seed; a line is a size. Bands: Student’s "
            "95 % interval, where there are two pairs or more; the widest are cut off by the panel."
        ),
        _difference_description,
    ),
    Plan(
        "multiplier",
        multipliers.draw,
        multipliers.lacks,
        lambda view: (
            "Bands: 95 % intervals of the cluster bootstrap. Hatched: extrapolation, which no run has seen. Grey: the "
            "margin of equivalence. Ticks at the bottom: each size, at its longest run."
        ),
        _multiplier_description,
    ),
    Plan(
        "tuning",
        tuning.draw,
        tuning.lacks,
        lambda view: (
            "Mean validation loss over tuning seeds, at the norm’s own lambda. The colour is how far above the arm’s "
            "best it is, the frame is the rate that was chosen; div.: diverged."
        ),
        _tuning_description,
    ),
    Plan(
        "strength",
        tuning.draw_strength,
        tuning.lacks_strength,
        lambda view: (
            "Validation loss over lambda at the arm’s best learning rate of the grid. Ringed, or a dashed line: the norm’s own "
            "lambda, with which the grid was tried."
        ),
        _strength_description,
    ),
    Plan(
        "realised",
        tuning.draw_realised,
        tuning.lacks_realised,
        lambda view: (
            "The same trials over the ratio of the activations’ spread to lambda that came of it, mean over norm sites. "
            "Ringed: the norm’s own lambda."
        ),
        _strength_description,
    ),
    Plan(
        "cost",
        cost.draw,
        cost.lacks,
        lambda view: (
            f"A point is a run against that of {view.analysis.baseline} of the same size, length and seed, a line their median."
        ),
        _cost_description,
    ),
    Plan(
        "stability",
        stability.draw,
        stability.lacks,
        lambda view: (
            "Main runs: hollow, the run’s median gradient norm; filled, its largest; a cross at the right, a run that diverged."
        ),
        lambda view: "Gradient norms of every main run; the table has the numbers.",
    ),
)
