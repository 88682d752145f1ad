"""Nearest neighbours, for a handful of dimensions (Kraskov, Stoegbauer and Grassberger, arXiv cond-mat/0305641, equation 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import digamma

from .documents import from_pseudo_values, groups
from .estimator import missing
from .measure import Measure, Region
from .observations import Observations
from .regions import KSG


@dataclass(frozen=True)
class Ksg:
    """I(X; T) of continuous X and T in few dimensions: two columns of activations, or what a projection left of them.

    Attributes:
        neighbours: k; more lower the variance and raise the bias.
        parts: disjoint groups of documents for the interval. The variance of an estimate is taken to fall as 1 / n
            (Holmes and Nemenman, arXiv 1903.09280), so that of n rows is a ``parts``-th of that of one group's.
    """

    neighbours: int = 3
    parts: int = 10
    needs: tuple[str, ...] = ("x",)
    region: Region = KSG
    name: str = "ksg"
    quantity: str = "I(X; T)"

    @property
    def relative_to(self) -> str:
        """The neighbourhood."""
        return f"{self.neighbours} nearest neighbours, greatest coordinate"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """The estimate of all rows; its interval's width from groups."""
        x, t = (rows.all().double().cpu().numpy() for rows in (data.x_rows, data.t_rows))
        if min(x.std(0).min(), t.std(0).min()) == 0:
            return (missing(self, data, "a column never changes"),)
        x, t = (_spread(rows, seed + place) for place, rows in enumerate((x, t)))
        value = ksg_information(x, t, self.neighbours)
        of_row = groups(data.clusters, self.parts, seed)
        if int(of_row.max()) + 1 < self.parts or int(torch.bincount(of_row).min()) <= 10 * self.neighbours:
            why = "no interval: too few documents"
            return (Measure(self.quantity, self.name, value, data.n, data.d, self.relative_to, reason=why),)
        found = [
            ksg_information(x[here], t[here], self.neighbours)
            for here in ((of_row == part).numpy() for part in range(self.parts))
        ]
        mean, low, high = from_pseudo_values(found)
        return (
            Measure(self.quantity, self.name, value, data.n, data.d, self.relative_to, value + low - mean, value + high - mean),
        )


def ksg_information(x: NDArray[Any], t: NDArray[Any], neighbours: int) -> float:
    """psi(k) + psi(n) - mean of psi(n_x + 1) + psi(n_t + 1): their first estimator, for rows ``[n, .]`` without ties."""
    joint = np.concatenate([x, t], axis=1)
    reach = cKDTree(joint).query(joint, neighbours + 1, p=np.inf)[0][:, -1]
    inside = np.nextafter(reach, 0)  # strictly nearer than the k-th neighbour
    counts = [cKDTree(rows).query_ball_point(rows, inside, p=np.inf, return_length=True) for rows in (x, t)]
    # A row is counted among its own neighbours: n_x + 1 is the count.
    return float(digamma(neighbours) + digamma(len(x)) - sum(digamma(count).mean() for count in counts))


def _spread(rows: NDArray[Any], seed: int) -> NDArray[Any]:
    """Columns of deviation 1, with noise of 1e-10 that breaks the ties of rounded numbers, as the paper advises."""
    draw = np.random.default_rng(seed)
    return (rows - rows.mean(0)) / rows.std(0) + 1e-10 * draw.standard_normal(rows.shape)
