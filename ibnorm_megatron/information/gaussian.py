"""Mutual information of a Gaussian with the data's covariance: I = 1/2 log |Sxx| |Stt| / |S|.

Two estimates of S. *Corrected*: the sample covariance, whose log determinants are wrong by an amount that is known exactly
for Gaussian rows (:func:`excess_of_sample_covariance`), and the jackknife over documents for the rest. *Ledoit-Wolf*: shrunk
towards a multiple of the identity. Shrinking answers another question, the least squared error of S: on round data it takes
away most of the information, on data with unequal variances little of the error. docs/information.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy.special import digamma
from torch import Tensor

from .documents import from_pseudo_values, groups
from .estimator import missing
from .measure import Measure, Region
from .noise import Noise
from .observations import Observations
from .regions import GAUSSIAN, LEDOIT_WOLF


@dataclass(frozen=True)
class Moments:
    """Sums over rows, which add up.

    Attributes:
        n: rows.
        total: their sum ``[p]``.
        square: of their outer products ``[p, p]``.
        fourth: of their lengths to the fourth; their mean is that of all rows taken out beforehand.
    """

    n: int
    total: Tensor
    square: Tensor
    fourth: float

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.square - other.square, self.fourth - other.fourth)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.square + other.square, self.fourth + other.fourth)

    def covariance(self) -> Tensor:
        """Divided by n ``[p, p]``."""
        mean = self.total / self.n
        return self.square / self.n - torch.outer(mean, mean)

    @staticmethod
    def of(rows: Tensor) -> Moments:
        """Of rows ``[n, p]``."""
        wide = rows.double()
        return Moments(len(wide), wide.sum(0), wide.T @ wide, float(wide.square().sum(1).square().sum()))


def ledoit_wolf(moments: Moments) -> tuple[Tensor, float]:
    """The covariance shrunk to a multiple of the identity, and how far (0 to 1).

    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88
    (2004), lemmas 3.2 to 3.4 and equation 14: m = tr S / p, d^2 = |S - m I|^2, b^2 = min(d^2, sum over rows of
    |x x^T - S|^2 / n^2), and S becomes (b^2 / d^2) m I + (1 - b^2 / d^2) S. Fourth moments are about the mean of all rows.
    """
    sample = moments.covariance()
    level = sample.diagonal().mean()
    target = level * torch.eye(len(sample), dtype=sample.dtype, device=sample.device)
    spread = float((sample - target).square().sum())
    noise = moments.fourth / moments.n**2 - float(sample.square().sum()) / moments.n
    share = min(1.0, max(0.0, noise / spread)) if spread > 0 else 1.0
    return share * target + (1 - share) * sample, share


def gaussian_information(covariance: Tensor, width: int) -> float:
    """I of the first ``width`` columns and the others, in nats; infinite where a block is singular."""
    blocks = (covariance[:width, :width], covariance[width:, width:], covariance)
    first, second, joint = (_log_determinant(block) for block in blocks)
    return 0.5 * (first + second - joint)


def excess_of_sample_covariance(n: int, *widths: int) -> float:
    """What :func:`gaussian_information` of a sample covariance of n Gaussian rows is too high by on average, exactly.

    n - 1 degrees of freedom; E log |S| = log |Sigma| + sum over i < p of digamma((n - 1 - i) / 2) + p log(2 / n): Wishart's
    distribution (Misra, Singh and Demchuk, J. Multivariate Analysis 92, 2005). The last terms cancel between the blocks.
    """

    def bias(p: int) -> float:
        return float(digamma((n - 1 - torch.arange(p).double().numpy()) / 2).sum())

    return 0.5 * (sum(map(bias, widths)) - bias(sum(widths)))


@dataclass(frozen=True)
class Gaussian:
    """I(X; T + noise) as if both were jointly Gaussian.

    Exact for Gaussians. Elsewhere it is what second moments say: a linear dependence, neither more nor less than I in general.

    Attributes:
        noise: added to T.
        shrink: Ledoit and Wolf's covariance instead of the corrected one.
        parts: groups of documents that the jackknife leaves out in turn.
    """

    noise: Noise = field(default_factory=Noise)
    shrink: bool = False
    parts: int = 20
    needs: tuple[str, ...] = ("x",)

    @property
    def name(self) -> str:
        """``gaussian`` or ``gaussian-ledoit-wolf``."""
        return "gaussian-ledoit-wolf" if self.shrink else "gaussian"

    @property
    def quantity(self) -> str:
        """In symbols."""
        return "I(X; T + noise)"

    @property
    def region(self) -> Region:
        """By covariance."""
        return LEDOIT_WOLF if self.shrink else GAUSSIAN

    @property
    def relative_to(self) -> str:
        """The noise."""
        return str(self.noise)

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """The jackknifed estimate with its interval over groups of documents; Ledoit-Wolf's is not jackknifed, and has the
        interval's width alone from it."""
        widths = data.x_rows.d, data.t_rows.d
        of_row = groups(data.clusters, self.parts, seed)
        parts = int(of_row.max()) + 1
        smallest = data.n - int(torch.bincount(of_row).max())
        if not self.shrink and smallest - 1 <= sum(widths):
            return (missing(self, data, f"{data.n} rows leave no degrees of freedom for {sum(widths)} columns"),)
        sums = self._sums(data, of_row, parts, seed)
        whole = sum(sums[1:], sums[0])
        value = self._information(whole, widths)
        if parts < self.parts:
            why = f"no interval: {parts} documents are fewer than {self.parts}"
            return (Measure(self.quantity, self.name, value, data.n, data.d, self.relative_to, reason=why),)
        rest = [self._information(whole - one, widths) for one in sums]
        mean, low, high = from_pseudo_values([parts * value - (parts - 1) * one for one in rest])
        if self.shrink:
            low, high, mean = value + low - mean, value + high - mean, value
        return (Measure(self.quantity, self.name, mean, data.n, data.d, self.relative_to, low, high),)

    def _information(self, moments: Moments, widths: tuple[int, int]) -> float:
        if self.shrink:
            return gaussian_information(ledoit_wolf(moments)[0], widths[0])
        return gaussian_information(moments.covariance(), widths[0]) - excess_of_sample_covariance(moments.n, *widths)

    def _sums(self, data: Observations, of_row: Tensor, parts: int, seed: int) -> list[Moments]:
        """Moments of each group of documents, in one pass."""
        x, t = data.x_rows, data.t_rows
        noisy = self.noise.drawn(data.n, t.d, self.noise.scale(t), seed)
        centre = torch.cat([sum(part.double().sum(0) for _, part in rows.chunks()) / data.n for rows in (x, t)])
        sums: list[Moments | None] = [None] * parts
        for index, rows in t.chunks():
            joint = torch.cat([x.take(index), noisy(index, rows)], dim=1).double() - centre
            for group in range(parts):
                found = Moments.of(joint[(of_row[index] == group).to(joint.device)])
                sums[group] = found if sums[group] is None else sums[group] + found  # type: ignore[operator]
        return sums  # type: ignore[return-value]


def _log_determinant(matrix: Tensor) -> float:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return float("-inf") if int(failed) else float(2 * factor.diagonal().log().sum())
