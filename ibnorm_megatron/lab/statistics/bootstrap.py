"""Intervals of the fitted parameters by a cluster bootstrap that stays right with few clusters.

A cluster is a size and seed, over all arms and horizons: it keeps whatever its runs share, and the whole of it is drawn
together. With three seeds a size, drawing clusters with replacement would leave sizes with one seed in a resample, and its
variance would be a third too small; so clusters stay where they are and their scores are multiplied by random weights instead
(the wild cluster bootstrap; Cameron, Gelbach and Miller, Rev. Econ. Stat. 90, 2008), with Webb's six weights, since nine
clusters have few signs (Webb, Queen's Economics Dept. WP 1315). It is studentized by the cluster jackknife's standard error,
and its scores are those of the jackknife (WCU-S of MacKinnon, Nielsen and Webb, arXiv 2301.04527), linearized at the
fit as for other M-estimators (the same authors, arXiv 2406.00650), so nothing is fit again.

In simulations its quantiles alone cover u1 in 91 to 96 of 100 studies of nine clusters. So they are taken to be at least
Student's with clusters - 1 degrees of freedom, one less where there are multipliers: with these it is 94 to 97
(docs/statistics.md).

A surface that was fit to many independent runs is another matter: there is no need for weights, and its constants bend so much
that a linear answer is too narrow by half. :func:`refit` draws clusters with replacement and fits again, as Besiroglu et al.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..results import LEVEL, Estimate
from . import Floats, Ints
from .paired import one_sided_pair
from .surface import Fit, minimize

#: Webb's: mean 0, variance 1, six values, so that six clusters have 46,656 resamples and not 64.
_WEIGHTS = np.array([-np.sqrt(1.5), -1.0, -np.sqrt(0.5), np.sqrt(0.5), 1.0, np.sqrt(1.5)])


#: A combination's part that a pseudo-inverse loses, relative to its largest: rounding is orders of magnitude below.
_UNTOLD = 1e-4

#: The least standard error of anything: fits to losses without noise end no nearer to the truth.
_EXACT = 1e-6


@dataclass(frozen=True)
class Bootstrap:
    """What a resampled fit says of linear combinations of its parameters.

    Attributes:
        values: of the combinations, ``[t]``.
        errors: their standard errors, by the cluster jackknife, ``[t]``.
        deviations: the resampled absolute studentized deviations, the smallest first, ``[resamples, t]``.
        freedom: Student's, of the least quantile, ``[t]``.
    """

    values: Floats
    errors: Floats
    deviations: Floats
    freedom: Ints

    def interval(self, place: int) -> Estimate:
        """The combination with its interval, which is symmetric; infinite where there are too few clusters."""
        value, half = float(self.values[place]), self.half_width(place, 1 - LEVEL)
        return Estimate(value, value - half, value + half)

    def half_width(self, place: int, alpha: float) -> float:
        """Of the interval at any level, 1 less ``alpha``."""
        if not self.is_known(place):
            return np.inf
        ordered = self.deviations[:, place]
        at = (1 - alpha) * (len(ordered) - 1)
        below = int(at)
        resampled = float(ordered[below] + (at - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below]))
        return max(resampled, float(stats.t.isf(alpha / 2, self.freedom[place]))) * float(self.errors[place])

    def is_known(self, place: int) -> bool:
        """Whether there are clusters enough for an interval, and no single one is all that the combination is known by."""
        return bool(self.freedom[place] >= 1 and np.isfinite(self.errors[place]))

    def p(self, place: int, null: float = 0.0) -> float:
        """Two-sided p of ``null``, which agrees with the interval."""
        if not self.is_known(place):
            return 1.0
        seen = abs(self.values[place] - null) / max(float(self.errors[place]), 1e-300)
        resampled = (1 + (self.deviations[:, place] >= seen).sum()) / (1 + len(self.deviations))
        return float(max(resampled, 2 * stats.t.sf(seen, self.freedom[place])))

    def p_within(self, place: int, margin: float) -> float:
        """Schuirmann's p that the combination lies outside of ``-margin`` to ``margin``."""
        if not self.is_known(place):
            return 1.0
        return one_sided_pair(float(self.values[place]), float(self.errors[place]), margin, float(self.freedom[place]))


def bootstrap(fit: Fit, targets: Floats, *, resamples: int = 1999, seed: int = 0) -> Bootstrap:
    """Resample the scores of a fit.

    Args:
        fit: from :func:`surface.minimize`.
        targets: linear combinations of its free parameters, ``[t, size]``.
        resamples: how many.
        seed: of the weights.
    """
    names, cluster = np.unique(fit.points.block, return_inverse=True)
    freedom = _freedom(fit, targets)
    jacobian = fit.derivatives
    scale = np.maximum(np.sqrt((jacobian**2).sum(axis=0)), 1e-12)
    jacobian = jacobian / scale
    targets_scaled = targets / scale
    share = _share_inside(fit)
    scores = np.zeros((len(names), fit.form.size))
    np.add.at(scores, cluster, jacobian * np.clip(fit.residuals, -fit.delta, fit.delta)[:, None])
    parts = np.stack([jacobian[cluster == g].T @ jacobian[cluster == g] for g in range(len(names))]) * share
    whole = parts.sum(axis=0)
    # What leaving a cluster out does to the combinations, per unit of score, ``[g, t, size]``.
    without = np.linalg.pinv(whole - parts, rcond=1e-10, hermitian=True)
    pull = np.einsum("tk,gkl->gtl", targets_scaled, without)
    # What cannot be told once a cluster is left out is known by that cluster alone, and nobody knows how well.
    rest = targets_scaled - np.einsum("gtl,glk->gtk", pull, whole - parts)
    alone = (np.abs(rest).max(axis=2) > _UNTOLD * np.abs(targets_scaled).max(axis=1)).any(axis=0)
    # Standard errors from what leaving out each cluster moves, around the estimate: CV3 of MacKinnon, Nielsen and Webb.
    errors = np.sqrt((len(names) - 1) / len(names) * (np.einsum("gtl,gl->gt", pull, scores) ** 2).sum(axis=0))
    errors = np.where(alone, np.inf, np.maximum(errors, _EXACT))
    # The jackknife's scores: what the left-out cluster's residuals would be to a fit without it.
    jack = scores + np.einsum("gkl,glm,gm->gk", parts, without, scores)
    draws = np.random.default_rng(seed).choice(_WEIGHTS, (resamples, len(names)))
    shift = draws @ jack @ np.linalg.pinv(whole, rcond=1e-10, hermitian=True)
    moved = shift @ targets_scaled.T
    own = np.einsum("gtl,gl->gt", pull, jack)
    taken = np.einsum("gtl,glm->gtm", pull, parts)
    squares = np.zeros((resamples, len(targets)))
    for g in range(len(names)):
        squares += (draws[:, g, None] * own[g] - shift @ taken[g].T) ** 2
    again = np.sqrt((len(names) - 1) / len(names) * squares)
    deviations = np.sort(np.abs(moved) / np.maximum(again, 1e-300), axis=0)
    return Bootstrap(targets @ fit.free, errors, deviations, freedom)


def _freedom(fit: Fit, targets: Floats) -> Ints:
    """Of each combination: clusters less 1, and less 2 where there are multipliers.

    An arm's multiplier is known by the clusters that it shares with the baseline, however many others there are.
    """
    points, form = fit.points, fit.form
    held = [np.unique(points.block[points.arm == arm]) for arm in range(form.arms)]
    shared = [len(np.unique(points.block)), *(len(np.intersect1d(held[0], own)) for own in held[1:])]
    freedom = np.full(len(targets), shared[0] - 1 - (form.arms > 1))
    for arm in range(1, form.arms):
        of_arm = targets[:, form.u0(arm) : form.u0(arm) + 2].any(axis=1)
        freedom[of_arm] = np.minimum(freedom[of_arm], shared[arm] - 2)
    return freedom


def refit(fit: Fit, targets: Floats, *, resamples: int = 400, seed: int = 0) -> list[Estimate]:
    """Percentile intervals of linear combinations, from fits to clusters drawn with replacement; for many clusters."""
    members = [np.flatnonzero(fit.points.block == name) for name in np.unique(fit.points.block)]
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        chosen = np.concatenate([members[place] for place in draw.integers(0, len(members), len(members))])
        found.append(targets @ minimize(fit.form, fit.points.where(chosen), fit.free, delta=fit.delta).free)
    ends = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Estimate(*map(float, one)) for one in zip(targets @ fit.free, *ends, strict=True)]


def _share_inside(fit: Fit) -> float:
    """The mean second derivative of Huber's loss: how likely an error is smaller than delta.

    Residuals are smaller than errors, since the fit has followed them.
    """
    n = len(fit.residuals)
    errors = np.abs(fit.residuals) * np.sqrt(n / max(1, n - fit.form.size))
    smoothing = 0.5 * max(float(np.median(errors)), 1e-2 * fit.delta)
    inside = stats.norm.cdf((fit.delta - errors) / smoothing) - stats.norm.cdf((-fit.delta - errors) / smoothing)
    return max(float(inside.mean()), 1.0 / n)
