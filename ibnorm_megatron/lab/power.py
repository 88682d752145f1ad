"""How small a true gain a study would find: its own cells, simulated with noise, and analysed.

A gain of u in log compute lowers the loss of a run by u s, where s = (alpha A N^-alpha + beta B D^-beta) / 2 is its slope in
log compute on the surface L = E + A N^-alpha + B D^-beta (Hoffmann et al., arXiv 2203.15556), as :mod:`results` defines a
multiplier. From paired differences d of arm and baseline, u is found as -sum(s d) / sum(s^2), with a t test over trainings:
the ends of one share a part of their noise, and count as one. This is the joint surface's estimate with its shape known, so
a little better than what the analysis can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .study import Study

#: Besiroglu et al., arXiv 2404.10102: Hoffmann et al.'s surface fitted again.
E, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658

#: Share of the unigram entropy at which the smallest run of a study is taken to end, where the surface says more. The surface
#: is of models and vocabularies a hundred times larger: its exponents are kept, and what they multiply is scaled down.
_SMALLEST_LOSS = 0.8

#: Standard deviation of a run's loss over seeds, in nats, where nobody says another.
SEED_SD = 0.005

#: Correlation of two arms' losses of one seed, and of two ends of one training: our assumptions.
ARMS_CORRELATION = 0.5
ENDS_CORRELATION = 0.5

POWER = 0.8
_LEVEL = 0.05
_SIMULATIONS = 4000


@dataclass(frozen=True)
class Cells:
    """A study's main stage, of one arm.

    Attributes:
        slopes: [size x seed, horizon] of the loss in log compute, nats.
        arms: compared with the baseline, the control not among them; Holm's correction is over them.
    """

    slopes: NDArray[np.float64]
    arms: int


def cells_of(study: Study) -> Cells:
    """The cells of a study, a row for each training."""
    horizons = sorted(study.config.horizons)
    n = np.array([[float(study.parameters(size))] * len(horizons) for size in study.config.sizes])
    d = np.array([[float(study.recipes[size].tokens(h)) for h in horizons] for size in study.config.sizes])
    parts = A * n**-ALPHA, B * d**-BETA
    smallest = parts[0][0, 0] + parts[1][0, 0]
    scale = min(1.0, max(0.05, (_SMALLEST_LOSS * study.prepared.unigram_entropy() - E) / smallest))
    slopes = scale * (ALPHA * parts[0] + BETA * parts[1]) / 2
    controls = {study.config.baseline, study.config.control}
    arms = sum(name not in controls for name in study.config.arms)
    return Cells(np.repeat(slopes, len(study.config.seeds), axis=0), max(1, arms))


def standard_error(cells: Cells, seed_sd: float = SEED_SD) -> float:
    """Of the log multiplier u: from the covariance of differences within a training."""
    weights = cells.slopes / (cells.slopes**2).sum()
    together = ENDS_CORRELATION * weights.sum(axis=1) ** 2 + (1 - ENDS_CORRELATION) * (weights**2).sum(axis=1)
    return float(seed_sd * np.sqrt(2 * (1 - ARMS_CORRELATION) * together.sum()))


def smallest_gain(cells: Cells, seed_sd: float = SEED_SD) -> float:
    """The multiplier minus one that :data:`POWER` of such studies find, after Holm's correction at its strictest step.

    Infinite where there are too few trainings for any test.
    """
    degrees = cells.slopes.shape[0] - 1
    if degrees < 1:
        return float("inf")
    critical = stats.t.ppf(1 - _LEVEL / cells.arms / 2, degrees)
    low, high = 0.0, float(10 * critical + 10)  # in standard errors
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, critical, degrees) >= POWER else (middle, high)
    return float(np.expm1(high * standard_error(cells, seed_sd)))


def _power(effect: float, critical: float, degrees: int) -> float:
    """P(|t| > critical), t noncentral: (z + effect) / sqrt(chi2 / degrees), over a grid of chi2 that costs nothing."""
    quantiles = (np.arange(2000) + 0.5) / 2000
    bound = critical * np.sqrt(stats.chi2.ppf(quantiles, degrees) / degrees)
    return float(np.mean(stats.norm.sf(bound - effect) + stats.norm.cdf(-bound - effect)))


def found_share(
    cells: Cells, gain: float, seed_sd: float = SEED_SD, *, seed: int = 0, simulations: int = _SIMULATIONS
) -> float:
    """The share of simulated studies in which a true gain is found: what :func:`smallest_gain` computes, by trying."""
    rng = np.random.default_rng(seed)
    rows, ends = cells.slopes.shape
    noise = np.sqrt(ENDS_CORRELATION) * rng.standard_normal((simulations, rows, 1))
    noise = noise + np.sqrt(1 - ENDS_CORRELATION) * rng.standard_normal((simulations, rows, ends))
    # What two arms of a seed share cancels in their difference.
    differences = seed_sd * np.sqrt(2 * (1 - ARMS_CORRELATION)) * noise - np.log1p(gain) * cells.slopes
    squares = (cells.slopes**2).sum()
    found = -(cells.slopes * differences).sum(axis=(1, 2)) / squares
    scores = (cells.slopes * (differences + found[:, None, None] * cells.slopes)).sum(axis=2)
    error = np.sqrt((scores**2).sum(axis=1) * rows / (rows - 1)) / squares  # robust over trainings
    p = 2 * stats.t.sf(np.abs(found / error), rows - 1)
    return float(np.mean(p < _LEVEL / cells.arms))
