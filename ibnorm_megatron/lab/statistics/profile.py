"""Intervals by profile likelihood, of a Gaussian model that knows which runs share what.

The residual of log L is the sum of four independent parts: of the size and seed (initial weights and data order are the same in
all arms), of the horizon in it, of the run, which all its decays share, and of the decay. Their variances are found by
restricted maximum likelihood (Patterson and Thompson, Biometrika 58, 1971), pooled over arms. The first two are common to all
arms and so say nothing of a multiplier; without them its interval would be several times too wide, and without the third too
narrow.

With the ratios of variances held, the surface is fit by generalized least squares, and a parameter's interval is where fixing
it costs no more than F allows: RSS(fixed) - RSS <= s^2 t^2 (Bates and Watts, Nonlinear Regression Analysis, 1988, chapter 6).
Unlike the bootstrap it takes all arms to be equally noisy, and Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import optimize, stats

from ..results import LEVEL, Estimate
from . import Floats, Ints
from .surface import Fit, Form, Points

#: Fits and estimates of the parts' variances in turn at most, and the relative change below which they end.
_ROUNDS, _SETTLED = 4, 0.1

#: Bounds of the logarithm of a part's variance over that of a decay.
_LOG_RATIOS = (-9.0, 16.0)

#: Gauss-Newton steps at most, and the relative gain below which they end.
_STEPS, _ENOUGH = 30, 1e-9


@dataclass(frozen=True)
class Whitener:
    """Decorrelates residuals: blocks are independent of each other, and padded to one length.

    Attributes:
        places: of each block's points, ``[g, m]``; -1 is padding.
        factors: lower Cholesky factors of the blocks' covariance over that of a decay, ``[g, m, m]``.
    """

    places: Ints
    factors: Floats

    def __call__(self, values: Floats) -> Floats:
        """``[n, k]`` to ``[g m, k]``, where padding is 0."""
        padded = np.where((self.places >= 0)[:, :, None], values[self.places], 0.0)
        return np.linalg.solve(self.factors, padded).reshape(-1, values.shape[1])


@dataclass(frozen=True)
class Likelihood:
    """The Gaussian fit.

    Attributes:
        form, points: as of the Huber fit it started from.
        whitener: of the points.
        free: parameters, ``[form.size]``.
        rss: whitened residual sum of squares there.
        variance: of a decay's own part.
        freedom: degrees of freedom of a multiplier's interval: independent clusters' contrasts between arms, less parameters.
    """

    form: Form
    points: Points
    whitener: Whitener
    free: Floats
    rss: float
    variance: float
    freedom: int

    @cached_property
    def covariance(self) -> Floats:
        """Of the parameters, ``[size, size]``."""
        jacobian = self.whitener(self.form.evaluate(self.free, self.points)[1])
        inverse: Floats = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
        return self.variance * inverse

    def around(self, shift: float) -> Likelihood:
        """The same with multipliers' u0 at another compute: C0 times exp(shift)."""
        free = self.free.copy()
        free[self.form.shape :: 2] += shift * free[self.form.shape + 1 :: 2]
        return replace(self, form=replace(self.form, centre_c=self.form.centre_c + shift), free=free)

    def interval(self, place: int) -> Estimate:
        """A parameter with its profile-likelihood interval; infinite where there are too few clusters."""
        value = float(self.free[place])
        if self.freedom < 1 or not self.covariance[place, place] > 0 or not self.variance > 0:
            return Estimate(value, -np.inf, np.inf)
        reach = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom))
        return Estimate(value, self._end(place, -reach), self._end(place, reach))

    def _end(self, place: int, reach: float) -> float:
        """Where the signed root of the profile deviance is ``reach``: nearly linear, so by the secant method."""
        error = float(np.sqrt(self.covariance[place, place]))
        low, low_root, high = 0.0, 0.0, reach
        slope = self.covariance[:, place] / self.covariance[place, place]
        for _ in range(8):
            start = self.free + slope * (high * error)
            _, rss = _gauss_newton(self.form, self.points, self.whitener, start, held=place)
            root = np.sign(reach) * np.sqrt(max(0.0, rss - self.rss) / self.variance)
            if abs(root - reach) < 1e-3 * abs(reach) or root == low_root:
                break
            low, low_root, high = high, root, high + (reach - root) * (high - low) / (root - low_root)
        return float(self.free[place] + high * error)


def estimate_parts(fit: Fit) -> Whitener:
    """The parts' variances: from the residuals of a fit, then of the fit that they lead to, until they stay.

    The first fit may be off by the noise that a seed's runs share, and the surface bends over that by more than decays differ.
    """
    form, points, free = fit.form, fit.points, fit.free
    places = _blocks(points.block)
    same = [_together(group, places) for group in _groups(points)]
    logs: Floats = np.full(len(same), -0.5)
    for _ in range(_ROUNDS):
        fitted, derivatives = form.evaluate(free, points)
        working = points.log_loss - fitted + derivatives @ free
        before, logs = logs, _log_ratios(places, same, derivatives, working, logs)
        whitener = Whitener(places, _factors(places, same, np.exp(logs)))
        free, _ = _gauss_newton(form, points, whitener, free)
        if np.abs(np.exp(logs - before) - 1).max(initial=0.0) < _SETTLED:
            break
    return whitener


def maximize(fit: Fit) -> Likelihood:
    """Fit again, by generalized least squares with the parts' variances."""
    points, form, whitener = fit.points, fit.form, estimate_parts(fit)
    free, rss = _gauss_newton(form, points, whitener, fit.free)
    variance = rss / max(1, len(points.arm) - form.size)
    held = [np.unique(points.block[points.arm == arm]) for arm in range(form.arms)]
    freedom = sum(max(0, len(np.intersect1d(held[0], own)) - 2) for own in held[1:])
    return Likelihood(form, points, whitener, free, rss, variance, freedom)


def _groups(points: Points) -> list[Ints]:
    """Who shares a part: cluster; cell of it; run. One that is the same as another, or everyone's own, is left out."""
    shared = [
        points.block,
        np.unique(np.stack([points.block, points.cell]), axis=1, return_inverse=True)[1].ravel(),
        np.unique(np.stack([points.arm, points.branch]), axis=1, return_inverse=True)[1].ravel(),
    ]
    kept: list[Ints] = []
    seen = {tuple(range(len(points.arm)))}
    for group in shared:
        # The same partition has the same first members.
        first = np.unique(group, return_index=True, return_inverse=True)
        partition = tuple(first[1][first[2]].tolist())
        if partition not in seen:
            seen.add(partition)
            kept.append(group)
    return kept


def _blocks(block: Ints) -> Ints:
    members = [np.flatnonzero(block == name) for name in np.unique(block)]
    places = np.full((len(members), max(map(len, members))), -1)
    for row, own in zip(places, members, strict=True):
        row[: len(own)] = own
    return places


def _together(group: Ints, places: Ints) -> Floats:
    """1 where two points of a block are of one group, ``[g, m, m]``."""
    names = np.where(places >= 0, group[places], -1 - np.arange(places.shape[1]))
    together: Floats = (names[:, :, None] == names[:, None, :]).astype(np.float64)
    return together


def _factors(places: Ints, same: list[Floats], ratios: Floats) -> Floats:
    covariance = np.tile(np.eye(places.shape[1]), (len(places), 1, 1))
    for ratio, together in zip(ratios, same, strict=True):
        covariance += ratio * together
    real = places >= 0
    both = real[:, :, None] & real[:, None, :]
    return np.linalg.cholesky(np.where(both, covariance, np.eye(places.shape[1])))


def _log_ratios(places: Ints, same: list[Floats], jacobian: Floats, working: Floats, start: Floats) -> Floats:
    """Logarithms of the parts' variances over that of a decay, by restricted maximum likelihood of the linearized fit."""
    if not same:
        return start
    basis = np.linalg.qr(jacobian)[0]
    both = np.concatenate([basis, working[:, None]], axis=1)
    # Scaled, so that the last pivot is no rounding beside the fitted part.
    rest = working - basis @ (basis.T @ working)
    both[:, -1] = rest / max(float(np.sqrt((rest**2).mean())), 1e-300)
    freedom = len(working) - basis.shape[1]

    def deviance(logs: Floats) -> float:
        factors = _factors(places, same, np.exp(logs))
        white = Whitener(places, factors)(both)
        gram = np.linalg.cholesky(white.T @ white + 1e-12 * np.eye(white.shape[1]))
        pivots = np.log(np.diagonal(gram))
        own = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum()
        return float(2 * own + 2 * pivots[:-1].sum() + 2 * freedom * pivots[-1])

    found = optimize.minimize(deviance, start, method="L-BFGS-B", bounds=[_LOG_RATIOS] * len(same), options={"ftol": 1e-7})
    logs: Floats = found.x
    return logs


def _gauss_newton(
    form: Form, points: Points, whitener: Whitener, start: Floats, held: int | None = None
) -> tuple[Floats, float]:
    """Generalized least squares from a start, with one parameter held or none; returns parameters and the sum of squares."""
    moving = np.array([place for place in range(form.size) if place != held])
    free = start.copy()
    fitted, jacobian = form.evaluate(free, points)
    white = whitener(np.column_stack([jacobian[:, moving], points.log_loss - fitted]))
    rss, damping = float(white[:, -1] @ white[:, -1]), 1e-9
    for _ in range(_STEPS):
        jacobian, residuals = white[:, :-1], white[:, -1]
        gram = jacobian.T @ jacobian
        gram[np.diag_indices_from(gram)] *= 1 + damping
        gram[np.diag_indices_from(gram)] += 1e-12
        step = np.linalg.solve(gram, jacobian.T @ residuals)
        trial = free.copy()
        trial[moving] += step
        fitted, jacobian = form.evaluate(trial, points)
        white_trial = whitener(np.column_stack([jacobian[:, moving], points.log_loss - fitted]))
        trial_rss = float(white_trial[:, -1] @ white_trial[:, -1])
        if not trial_rss <= rss:
            damping = max(1e-6, damping * 10)
            if damping > 1e6:
                break
            continue
        gain = rss - trial_rss
        free, white, rss, damping = trial, white_trial, trial_rss, damping / 10
        if gain <= _ENOUGH * rss:
            break
    return free, rss
