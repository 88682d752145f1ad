"""From observations to the joint surface and every arm's compute multiplier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .pairing import Table, as_points, exponential, slowdown
from .results import At, Estimate, Multiplier, Observation, Surface
from .statistics import Floats, paired
from .statistics.bootstrap import Bootstrap, bootstrap, refit
from .statistics.profile import Likelihood, maximize
from .statistics.surface import Fit, NotIdentified, Points, fit_joint, predict

#: Computes within the observed range at which a multiplier is given, and factors beyond it.
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
        computes: FLOPs at which multipliers are given, the observed range first.
    """

    arms: tuple[str, ...]
    fit: Fit
    resampled: Bootstrap
    likely: Likelihood
    computes: Floats


def fit_arms(table: Table, resamples: int, seed: int) -> Joint:
    """Fit the surface and the multipliers of all arms that have pairs at two computes.

    Raises:
        NotIdentified: the points cannot tell size from tokens.
    """
    arms = (table.arms[0], *(arm for arm in table.arms[1:] if _has_slope(table, arm)))
    fit = fit_joint(as_points(table, arms))
    computes = _computes(fit.points)
    resampled = bootstrap(fit, _combinations(fit, computes), resamples=resamples, seed=seed)
    return Joint(arms, fit, resampled, maximize(fit), computes)


def _has_slope(table: Table, arm: str) -> bool:
    return len({key[:2] for key in table.pairs(arm)}) > 1


def _computes(points: Points) -> Floats:
    low, high = float(np.exp(points.log_c.min())), float(np.exp(points.log_c.max()))
    return np.concatenate([np.geomspace(low, high, _WITHIN), [high * factor for factor in _BEYOND]])


def _pivots(fit: Fit) -> list[float]:
    """For every arm but the baseline, ln(C / C0) where its multiplier is best known.

    There ln m does not correlate with u1, and it is what u0 would be with u1 held at 0: the restricted least-squares estimate
    is u0 - cov(u0, u1) / var(u1) u1. Other arms keep their u1, so that what one arm's trend leaves over is no noise of another.
    """
    covariance = np.linalg.pinv(fit.derivatives.T @ fit.derivatives, hermitian=True)
    places = [fit.form.u0(arm) for arm in range(1, fit.form.arms)]
    return [float(-covariance[place, place + 1] / covariance[place + 1, place + 1]) for place in places]


def _combinations(fit: Fit, computes: Floats) -> Floats:
    """log E, log A, log B, alpha, beta; then, of every arm, u0, u1, ln m at the pivot and at each compute."""
    form = fit.form
    rows = np.zeros((5, form.size))
    beta = form.shape - 1
    rows[[0, 1, 2, 3, 4], [0, 1, 2, 3, beta]] = 1
    rows[1, 3], rows[2, beta] = form.centre_n, form.centre_d
    for arm, pivot in enumerate(_pivots(fit), start=1):
        own = np.zeros((3 + len(computes), form.size))
        own[1, form.u0(arm) + 1] = 1
        own[[0, *range(2, len(own))], form.u0(arm)] = 1
        own[2:, form.u0(arm) + 1] = [pivot, *(np.log(computes) - form.centre_c)]
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
    rows = _combinations(fit, np.zeros(0))
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
    corrected = paired.holm({row.arm: row.p_u0 for row in rows if row.arm != control})
    return tuple(replace(row, p_holm=corrected.get(row.arm, row.p_u0)) for row in rows), why


def _multiplier(table: Table, joint: Joint, number: int, pivot: float, left_out: float, equivalence: float) -> Multiplier:
    arm, form = joint.arms[number], joint.fit.form
    first = 5 + (number - 1) * (3 + len(joint.computes))
    place = form.u0(number)
    highest = joint.computes[_WITHIN - 1] * (1 + 1e-9)
    at = tuple(
        At(float(flops), exponential(joint.resampled.interval(first + 3 + column)), bool(flops > highest))
        for column, flops in enumerate(joint.computes)
    )
    mean = exponential(joint.resampled.interval(first + 2))
    slower = slowdown(table, arm)
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
        slowdown=slower,
        in_seconds=_over(mean, slower) if slower else None,
        largest_left_out=left_out,
        p_equivalent=joint.resampled.p_within(first + 2, math.log1p(equivalence)),
        profile_mean=exponential(joint.likely.around(pivot).interval(place)),
    )


def _over(gain: Estimate, slower: Estimate) -> Estimate:
    """The quotient of two independent estimates: half widths of logarithms add in squares.

    Zou and Donner, Stat. Med. 27 (2008).
    """
    if not 0 < gain.low <= gain.high < math.inf or not 0 < slower.low <= slower.high < math.inf:
        return Estimate(gain.value / slower.value, 0.0, math.inf)
    logs = [[float(np.log(end)) for end in (one.value, one.low, one.high)] for one in (gain, slower)]
    value = logs[0][0] - logs[1][0]
    down = math.hypot(logs[0][0] - logs[0][1], logs[1][2] - logs[1][0])
    up = math.hypot(logs[0][2] - logs[0][0], logs[1][0] - logs[1][1])
    return exponential(Estimate(value, value - down, value + up))


def _largest_left_out(table: Table, arms: Sequence[str]) -> tuple[list[float], str]:
    """For every arm, predicted minus observed log loss of the largest size; NaN where the rest cannot be fit."""
    points = as_points(table, arms)
    # Sizes of which arms are asked for the same parameters may differ by their norms' few.
    largest = points.log_n > points.log_n.max() - 0.01
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
