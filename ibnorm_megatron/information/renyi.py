"""Matrix-based Renyi mutual information, with what it reads where there is none to read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gram import gaussian_gram, label_gram, matrix_entropy, median_square, squared_distances
from .measure import Measure, Null, Region
from .observations import Observations
from .regions import RENYI


@dataclass(frozen=True)
class Renyi:
    """I_alpha = S_alpha(A) + S_alpha(B) - S_alpha(A, B) of two Gram matrices, for several alphas and bandwidths.

    **It is no mutual information**: the value depends on kernel, bandwidth, width and number of rows, and changes under maps
    that change no information. Beside it stands what the same estimator says when the rows of one side are permuted; the
    excess over that, and p, say whether there is a dependence. Excesses of different widths, or n, cannot be compared.

    Attributes:
        against: ``x``, or ``labels`` (their kernel is 1 for equal ones).
        alphas: orders.
        multiples: bandwidths, in units of the root of the median squared distance, for each side that is not labels.
        permutations: for the null; the same ones for every alpha and bandwidth.
    """

    against: str = "x"
    alphas: tuple[float, ...] = (1.01, 2.0)
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0)
    permutations: int = 20

    @property
    def name(self) -> str:
        """One name for all orders."""
        return "renyi-labels" if self.against == "labels" else "renyi"

    @property
    def quantity(self) -> str:
        """What it is an analogue of."""
        return "I_alpha(T; Y)" if self.against == "labels" else "I_alpha(X; T)"

    @property
    def needs(self) -> tuple[str, ...]:
        """The other side."""
        return (self.against,)

    @property
    def region(self) -> Region:
        """Where dependence is told from independence."""
        return RENYI

    @property
    def relative_to(self) -> str:
        """The kernel."""
        return "Gaussian kernel, bandwidths by the median distance"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """One measure for each alpha and multiple."""
        squares = squared_distances(data.t_rows.all())
        others = None if self.against == "labels" else squared_distances(data.x_rows.all())
        labels = label_gram(data.classes.to(squares.device)) if self.against == "labels" else None
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(data.n, generator=generator).to(squares.device) for _ in range(self.permutations)]
        found = []
        for multiple in self.multiples:
            first = gaussian_gram(squares, multiple, median_square(squares))
            second = labels if others is None else gaussian_gram(others, multiple, median_square(others))
            assert second is not None
            found += self._measures(first, second, orders, multiple, data)
        return tuple(sorted(found, key=lambda one: one.details["alpha"]))

    def _measures(
        self, first: Tensor, second: Tensor, orders: list[Tensor], multiple: float, data: Observations
    ) -> list[Measure]:
        measures = []
        # Order 2 needs no eigenvalues: alone it is a hundred times cheaper.
        for alphas in [tuple(one for one in self.alphas if one != 2), tuple(one for one in self.alphas if one == 2)]:
            if not alphas:
                continue
            margins = [a + b for a, b in zip(matrix_entropy(first, alphas), matrix_entropy(second, alphas), strict=True)]
            joints = [matrix_entropy(first * second[order][:, order], alphas) for order in orders]
            itself = matrix_entropy(first * second, alphas)
            for place, alpha in enumerate(alphas):
                value = margins[place] - itself[place]
                null = [margins[place] - joint[place] for joint in joints]
                p = (1 + sum(one >= value for one in null)) / (1 + len(null))
                measures.append(self._measure(alpha, multiple, value, null, p, data))
        return measures

    def _measure(self, alpha: float, multiple: float, value: float, null: list[float], p: float, data: Observations) -> Measure:
        bandwidth = f"Gaussian kernel, bandwidth {multiple:g} x the median distance, alpha {alpha:g}"
        return Measure(
            self.quantity,
            self.name,
            value,
            data.n,
            data.d,
            bandwidth,
            reason="no interval: compare with the null",
            null=Null(sum(null) / len(null), min(null), max(null), len(null)) if null else None,
            details={"alpha": alpha, "multiple": multiple, "p": p},
        )
