"""From observations to the joint surface and every arm's compute multiplier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .pairing import Table, as_points, exponential, log_slowdown
from .results import LEVEL, At, Estimate, Multiplier, Observation, Surface
from .statistics import Floats, paired
from .statistics.bootstrap import Bootstrap, bootstrap, refit
from .statistics.profile import Likelihood, maximize
from .statistics.surface import SAME, Fit, NotIdentified, fit_joint, predict

#: Computes within an arm's observed range at which its multiplier is given, and factors beyond it.
_WITHIN, _BEYOND = 5, (10.0, 100.0)

#: From so many clusters on the surface of one arm is fit again to resamples of them.
_MANY = 30


@dataclass(frozen=True)
class Joint:
    """The fit of all arms, with what resampling and the likelihood say of it.

    Attributes:
        arms: names, in the order of the fit's numbers.
        fit: by Huber's loss.
        resampled: over the rows of :func:`_combinations`.
        likely: the Gaussian fit.
        computes: FLOPs at which multipliers are given, ``[arms, c]``: the range in which an arm has pairs first.
    """

    arms: tuple[str, ...]
    fit: Fit
    resampled: Bootstrap
    likely: Likelihood
    computes: Floats


def fit_arms(table: Table, resamples: int, seed: int) -> Joint:
    """Fit the surface and the multipliers of all arms that have pairs at two computes and are not :func:`is_far`.

    Raises:
        NotIdentified: the points cannot tell size from tokens.
    """
    arms = (table.arms[0], *(arm for arm in table.arms[1:] if _has_slope(table, arm) and not is_far(table, arm)))
    fit = fit_joint(as_points(table, arms))
    computes = np.stack([_computes(table, arm) for arm in arms])
    resampled = bootstrap(fit, _combinations(fit, computes), resamples=resamples, seed=seed)
    return Joint(arms, fit, resampled, maximize(fit), computes)


def _has_slope(table: Table, arm: str) -> bool:
    return len({key[:2] for key in table.pairs(arm)}) > 1


def is_far(table: Table, arm: str) -> bool:
    """Whether an arm's losses are too far from the baseline's for one surface.

    That is where they differ by more than half of what the baseline's own differ by over its sizes and horizons. A multiplier
    would be an extrapolation then, and the surface would bend to reach it, at the cost of all other arms.
    """
    base, own, keys = table.good[table.baseline], table.good[arm], table.pairs(arm)
    cells = [
        math.log(np.median([one.loss for key, one in base.items() if key[:2] == cell])) for cell in {key[:2] for key in base}
    ]
    apart = np.median([abs(math.log(own[key].loss / base[key].loss)) for key in keys])
    return bool(apart > (max(cells) - min(cells)) / 2)


def _computes(table: Table, arm: str) -> Floats:
    flops = [table.good[arm][key].flops for key in table.pairs(arm)]
    low, high = min(flops), max(flops)
    return np.concatenate([np.geomspace(low, high, _WITHIN), [high * factor for factor in _BEYOND]])


def _pivots(fit: Fit) -> list[float]:
    """For every arm but the baseline, ln(C / C0) where its multiplier is best known.

    There ln m does not correlate with u1, and it is what u0 would be with u1 held at 0: the restricted least-squares estimate
    is u0 - cov(u0, u1) / var(u1) u1. Other arms keep their u1, so that what one arm's trend leaves over is no noise of another.
    """
    covariance = np.linalg.pinv(fit.derivatives.T @ fit.derivatives, hermitian=True)
    places = [fit.form.u0(arm) for arm in range(1, fit.form.arms)]
    known = [covariance[place + 1, place + 1] > 1e-12 * covariance[place, place] for place in places]
    return [
        float(-covariance[place, place + 1] / covariance[place + 1, place + 1]) if there else 0.0
        for place, there in zip(places, known, strict=True)
    ]


def _combinations(fit: Fit, computes: Floats) -> Floats:
    """log E, log A, log B, alpha, beta; then, of every arm, u0, u1, ln m at the pivot and at each compute."""
    form = fit.form
    rows = np.zeros((5, form.size))
    beta = form.shape - 1
    rows[[0, 1, 2, 3, 4], [0, 1, 2, 3, beta]] = 1
    rows[1, 3], rows[2, beta] = form.centre_n, form.centre_d
    for arm, pivot in enumerate(_pivots(fit), start=1):
        own = np.zeros((3 + computes.shape[1], form.size))
        own[1, form.u0(arm) + 1] = 1
        own[[0, *range(2, len(own))], form.u0(arm)] = 1
        own[2:, form.u0(arm) + 1] = [pivot, *(np.log(computes[arm]) - form.centre_c)]
        rows = np.concatenate([rows, own])
    return rows


def surface_of(fit: Fit, intervals: Sequence[Estimate]) -> Surface:
    """The surface's constants with intervals, given those of log E, log A, log B, alpha and beta."""
    e, a, b = (exponential(interval) for interval in intervals[:3])
    alpha, beta = intervals[3:5]
    return Surface(e, a, b, alpha, beta, fit.spread, len(fit.residuals))


def shape_of(resampled: Bootstrap) -> list[Estimate]:
    """The intervals that :func:`surface_of` takes."""
    return [resampled.interval(place) for place in range(5)]


def fit_alone(fit: Fit, resamples: int, seed: int) -> Surface:
    """The surface of one arm."""
    rows = _combinations(fit, np.zeros((1, 0)))
    if len(np.unique(fit.points.block)) >= _MANY:
        return surface_of(fit, refit(fit, rows, seed=seed))
    return surface_of(fit, shape_of(bootstrap(fit, rows, resamples=resamples, seed=seed)))


def margin_of(fit: Fit, equivalence: float) -> Callable[[Observation], float]:
    """What a share of compute is worth in nats: L at N, D less L at both times sqrt(1 + share)."""
    _, a, b, alpha, beta = fit.constants

    def worth(observation: Observation) -> float:
        gain = (1 + equivalence) ** 0.5
        n, d = observation.parameters, observation.tokens
        by_size = a * n**-alpha * (1 - gain**-alpha)
        return float(by_size + b * d**-beta * (1 - gain**-beta))

    return worth


def multipliers_of(table: Table, joint: Joint, control: str | None, equivalence: float) -> tuple[tuple[Multiplier, ...], str]:
    """Every arm's multiplier, and why the largest size could not be left out (empty where it could)."""
    left_out, why = _largest_left_out(table, joint.arms)
    pivots = _pivots(joint.fit)
    rows = [
        _multiplier(table, joint, number, pivots[number - 1], left_out[number], equivalence)
        for number in range(1, len(joint.arms))
    ]
    return tuple(_corrected(rows, control)), why


def _corrected(rows: Sequence[Multiplier], control: str | None) -> Iterator[Multiplier]:
    """With Holm's correction over arms of each of the three tests; the control is left out, and has its own p."""
    candidates = [row for row in rows if row.arm != control]
    gain = paired.holm({row.arm: row.p_u0 for row in candidates})
    change = paired.holm({row.arm: row.p_u1 for row in candidates})
    clock = paired.holm({row.arm: row.p_seconds for row in candidates if not math.isnan(row.p_seconds)})
    for row in rows:
        yield replace(
            row,
            p_holm=gain.get(row.arm, row.p_u0),
            p_u1_holm=change.get(row.arm, row.p_u1),
            p_seconds_holm=clock.get(row.arm, row.p_seconds),
        )


def _multiplier(table: Table, joint: Joint, number: int, pivot: float, left_out: float, equivalence: float) -> Multiplier:
    arm, form = joint.arms[number], joint.fit.form
    first = 5 + (number - 1) * (3 + joint.computes.shape[1])
    place = form.u0(number)
    at = tuple(
        At(float(flops), exponential(joint.resampled.interval(first + 3 + column)), column >= _WITHIN)
        for column, flops in enumerate(joint.computes[number])
    )
    mean = exponential(joint.resampled.interval(first + 2))
    clock = _by_clock(joint.resampled, first + 2, log_slowdown(table, arm))
    return Multiplier(
        arm=arm,
        u0=joint.resampled.interval(first),
        u1=joint.resampled.interval(first + 1),
        c0=float(np.exp(form.centre_c)),
        profile_u0=joint.likely.interval(place),
        profile_u1=joint.likely.interval(place + 1),
        mean=mean,
        p_u0=joint.resampled.p(first + 2),
        p_u1=joint.resampled.p(first + 1),
        p_holm=math.nan,
        at=at,
        slowdown=clock.slowdown,
        in_seconds=clock.gain,
        p_seconds=clock.p,
        largest_left_out=left_out,
        p_equivalent=joint.resampled.p_within(first + 2, math.log1p(equivalence)),
        profile_mean=exponential(joint.likely.around(pivot).interval(place)),
    )


@dataclass(frozen=True)
class _Clock:
    """An arm by wall-clock: slowdown, multiplier, and the p of no gain; nothing where nobody measured."""

    slowdown: Estimate | None = None
    gain: Estimate | None = None
    p: float = math.nan


def _by_clock(resampled: Bootstrap, place: int, logs: paired.Clusters | None) -> _Clock:
    """The multiplier over the slowdown: half widths of two independent logarithms add in squares.

    Zou and Donner, Stat. Med. 27 (2008). The p is one less the confidence of the interval that ends at no gain.
    """
    if logs is None:
        return _Clock()
    slower, value = paired.by_t(logs)[0], float(resampled.values[place]) - logs.mean

    def half(alpha: float) -> float:
        return math.hypot(resampled.half_width(place, alpha), paired.half_width(logs, alpha))

    width = half(1 - LEVEL)
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if half(middle) < abs(value) else (middle, high)
    return _Clock(exponential(slower), exponential(Estimate(value, value - width, value + width)), high)


def _largest_left_out(table: Table, arms: Sequence[str]) -> tuple[list[float], str]:
    """For every arm, predicted minus observed log loss of the largest size; NaN where the rest cannot be fit."""
    points = as_points(table, arms)
    # Sizes of which arms are asked for the same parameters may differ by their norms' few.
    largest = points.log_n > points.log_n.max() - SAME
    rest = points.where(~largest)
    errors = [math.nan] * len(arms)
    try:
        if any(len(np.unique(rest.cell[rest.arm == arm])) < 2 for arm in range(len(arms))):
            raise NotIdentified("an arm has too few runs of the other sizes")
        fit = fit_joint(rest)
    except NotIdentified as error:
        return errors, str(error)
    unseen = points.where(largest)
    missed = predict(fit, unseen) - unseen.log_loss
    for arm in range(len(arms)):
        if (unseen.arm == arm).any():
            errors[arm] = float(missed[unseen.arm == arm].mean())
    return errors, ""
