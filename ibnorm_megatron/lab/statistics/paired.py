"""Paired differences: Student's and the sign-flip test's intervals, Holm's correction, and the test of equivalence.

What shares its seed is one cluster: the decays of one run are not independent, and neither are two runs that begin alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..results import LEVEL, Estimate
from . import Floats, Ints

#: Up to so many clusters all sign flips are enumerated.
EXACT = 16

#: Sign flips drawn beyond that.
DRAWN = 2**16 - 1


@dataclass(frozen=True)
class Clusters:
    """Sums over clusters of paired differences.

    Attributes:
        sums: of the differences of each cluster, ``[clusters]``.
        counts: pairs in each, ``[clusters]``.
        strata: what each cluster belongs to whose mean may differ from others', ``[clusters]``: its size.
    """

    sums: Floats
    counts: Floats
    strata: Ints

    @classmethod
    def of(cls, differences: Sequence[float], clusters: Sequence[object], strata: Sequence[object] | None = None) -> Clusters:
        """Group differences by their cluster's name; a cluster's stratum is that of its first difference.

        Strata of which one has a single cluster are taken for one, since nobody knows the spread there.
        """
        names = list(dict.fromkeys(clusters))
        places = [names.index(name) for name in clusters]
        values = np.asarray(differences, dtype=np.float64)
        counts = np.bincount(places, minlength=len(names)).astype(np.float64)
        given = [strata[places.index(place)] for place in range(len(names))] if strata else [None] * len(names)
        kinds = list(dict.fromkeys(given))
        numbers = np.array([kinds.index(one) for one in given], dtype=np.intp)
        if np.bincount(numbers).min() < 2:
            numbers = np.zeros(len(names), dtype=np.intp)
        return cls(np.bincount(places, values, len(names)).astype(np.float64), counts, numbers)

    @property
    def mean(self) -> float:
        """Over pairs: each counts alike."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the standard error: clusters less strata."""
        return len(self.sums) - len(np.unique(self.strata))

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread of clusters within strata; NaN for one cluster.

        That of a ratio of two sums (Cochran, Sampling Techniques, 1977, chapter 6); where all clusters hold equally many pairs,
        of one stratum, it is that of the mean of their means. What strata differ by is no noise: the sizes are chosen, and a
        true gain is worth more nats in a small model than in a large one.
        """
        if self.freedom < 1:
            return math.nan
        square = 0.0
        for stratum in np.unique(self.strata):
            sums, counts = self.sums[self.strata == stratum], self.counts[self.strata == stratum]
            rest = sums - counts * sums.sum() / counts.sum()
            square += len(sums) / (len(sums) - 1) * float((rest**2).sum())
        return float(math.sqrt(square) / self.counts.sum())

    def without_strata(self) -> Floats:
        """Sums as if every stratum had the mean of all: deviations from its own, as large as they were."""
        moved = self.sums.copy()
        for stratum in np.unique(self.strata):
            own = self.strata == stratum
            sums, counts, n = self.sums[own], self.counts[own], int(own.sum())
            if len(self.sums) > n:
                rest = sums - counts * sums.sum() / counts.sum()
                moved[own] = counts * self.mean + rest * math.sqrt(n / (n - 1))
        return moved


def half_width(clusters: Clusters, alpha: float) -> float:
    """Of Student's interval of the mean at any level, 1 less ``alpha``; infinite for one cluster."""
    if clusters.freedom < 1:
        return math.inf
    return float(stats.t.isf(alpha / 2, clusters.freedom)) * clusters.standard_error


def by_t(clusters: Clusters) -> tuple[Estimate, float]:
    """The mean with Student's interval over clusters, and the two-sided p of no difference.

    Student, The probable error of a mean, Biometrika 6 (1908). One cluster has infinite ends and p = 1.
    """
    mean, error, freedom = clusters.mean, clusters.standard_error, clusters.freedom
    if freedom < 1:
        return Estimate(mean, -math.inf, math.inf), 1.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
    return Estimate(mean, mean - half, mean + half), p


def least_p(clusters: int) -> float:
    """The least p that a sign-flip test of so many clusters can have."""
    return 2.0 / 2.0 ** min(clusters, EXACT)


def by_signs(clusters: Clusters, seed: int = 0) -> tuple[Estimate, float]:
    """The mean with the interval of the sign-flip test, which is infinite where so few clusters cannot reach 5 %, and its p.

    Under symmetric noise every cluster's difference from the true mean may have had the other sign (Fisher, The Design of
    Experiments, 1935, section 21). The mean of the flipped ones passes that of the observed ones exactly where the true mean
    passes the mean of the clusters that were flipped. So the interval, all values that the test does not refuse, ends at order
    statistics of the means of subsets (Hartigan, Using subsample values as typical values, JASA 64, 1969). All 2^n - 1 subsets
    up to :data:`EXACT` clusters, :data:`DRAWN` random ones beyond (Phipson and Smyth, arXiv 1603.05766: the observed signs are
    counted too, so p is never zero).

    p is exact where there is no effect, whatever the sizes' noise. The interval is for the mean over strata that may differ: it
    flips deviations from each stratum's mean (:meth:`Clusters.without_strata`).
    """
    n, mean = len(clusters.sums), clusters.mean
    if n <= EXACT:
        numbers = np.arange(1, 2**n)
        chosen = ((numbers[:, None] >> np.arange(n)) & 1).astype(np.int8)
    else:
        chosen = np.random.default_rng(seed).integers(0, 2, (DRAWN, n), dtype=np.int8)
        chosen = chosen[chosen.any(axis=1)]
    held = _sums(chosen, clusters.counts)
    flips = len(chosen) + 1
    means = _sums(chosen, clusters.sums) / held
    # Rounding must not part means that are equal.
    slack = 1e-12 * float(np.abs(means).max(initial=0.0))
    below, above = int((means <= slack).sum()), int((means >= -slack).sum())
    p = min(1.0, 2 * (1 + min(below, above)) / flips)
    outside = int((1 - LEVEL) / 2 * flips)
    if outside < 1:
        return Estimate(mean, -math.inf, math.inf), p
    means = np.sort(_sums(chosen, clusters.without_strata()) / held)
    return Estimate(mean, float(means[outside - 1]), float(means[-outside])), p


def _sums(chosen: NDArray[np.int8], values: Floats) -> Floats:
    """Over the chosen clusters, ``[subsets]``; a block of subsets at a time, since there may be many clusters."""
    blocks = np.array_split(chosen, 1 + (chosen.size >> 22))
    return np.concatenate([block.astype(np.float64) @ values for block in blocks])


def equivalence(clusters: Clusters, margin: float) -> float:
    """The larger p of two one-sided t tests: that the mean is below ``-margin``, and that it is above ``margin``.

    Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987): equivalent at 5 % where it is below 0.05, which is where the 90 %
    interval lies within the margin. NaN without a margin; 1 for one cluster.
    """
    if math.isnan(margin):
        return math.nan
    return one_sided_pair(clusters.mean, clusters.standard_error, margin, clusters.freedom)


def one_sided_pair(value: float, error: float, margin: float, freedom: float) -> float:
    """Schuirmann's larger p for a value with its standard error and degrees of freedom."""
    if freedom < 1 or math.isnan(error):
        return 1.0
    if error == 0:
        return float(abs(value) >= margin)
    return float(max(stats.t.sf((value + margin) / error, freedom), stats.t.cdf((value - margin) / error, freedom)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Each p after Holm's step-down correction (Scand. J. Statist. 6, 1979): no more than 5 % to claim any false one."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}
