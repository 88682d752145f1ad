"""Prompt and dataset entropy as in "Layer by Layer" (Skean et al., arXiv 2502.02013): how many directions embeddings use.

S_alpha of K = Z Z^T scaled to trace 1 (``gram``), with a linear kernel and alpha = 1. *Prompt entropy*: the rows of Z are the
token embeddings of one prompt, and the number is the mean over prompts. *Dataset entropy*: the rows are the prompts' mean
embeddings. Both lie between 0 and log min(rows, width); ``share`` is the ratio to that, ``maxEntropy`` in the authors' code.

The definitions are those of that code (github.com/OFSkean/information_flow, experiments/utils/metrics/metric_functions.py and
utils/misc/metric_utils.py): the mean over the prompt's tokens is taken out of them and each is scaled to length 1 before Z,
and before the dataset's means, are formed. The code also sets negative entries of K to 0, after which K need not be positive
semidefinite: that is left out here. Scaling undoes a norm's own scale; ``scaled=False`` leaves both steps out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .documents import bootstrap
from .gram import entropy_of_spectrum
from .measure import Measure, Region
from .observations import Observations
from .regions import SPECTRUM


@dataclass(frozen=True)
class PromptEntropy:
    """The mean of S_alpha over documents, or S_alpha of the documents' means. It is about geometry, not about any label.

    Attributes:
        dataset: the documents' means.
        alpha: order.
        scaled: centre the tokens of a document and scale them to length 1 first, as the paper's code does.
    """

    dataset: bool = False
    alpha: float = 1.0
    scaled: bool = True
    needs: tuple[str, ...] = ("documents",)
    region: Region = SPECTRUM

    @property
    def name(self) -> str:
        """``entropy-prompt`` or ``entropy-dataset``."""
        return "entropy-dataset" if self.dataset else "entropy-prompt"

    @property
    def quantity(self) -> str:
        """In symbols."""
        return "S(documents' means of T)" if self.dataset else "S(T within a document)"

    @property
    def relative_to(self) -> str:
        """The kernel and the order."""
        return f"linear kernel, {'centred unit rows' if self.scaled else 'rows as they are'}, alpha {self.alpha:g}"

    def estimate(self, data: Observations, seed: int) -> tuple[Measure, ...]:
        """One measure; its details hold the share of the greatest possible entropy, ``share``."""
        entropies, shares, means = [], [], []
        order = data.clusters.argsort(stable=True)
        for index in order.split(torch.bincount(data.clusters).tolist()):
            rows = data.t_rows.take(index).double()
            if self.scaled:
                rows = rows - rows.mean(0)
                rows = torch.nn.functional.normalize(rows, dim=1)
            if self.dataset:
                means.append(rows.mean(0))
            elif min(rows.shape) > 1 and bool(rows.any()):
                entropies.append(linear_entropy(rows, self.alpha))
                shares.append(entropies[-1] / math.log(min(rows.shape)))
        if self.dataset:
            rows = torch.stack(means)
            usable = min(rows.shape) > 1 and bool(rows.any())
            entropies, shares = (
                ([value := linear_entropy(rows, self.alpha)], [value / math.log(min(rows.shape))]) if usable else ([], [])
            )
        return (self._measure(entropies, shares, len(means) or len(entropies), data, seed),)

    def _measure(self, entropies: list[float], shares: list[float], count: int, data: Observations, seed: int) -> Measure:
        if not entropies:
            why = "no document has two tokens that differ, and two columns"
            return Measure(self.quantity, self.name, math.nan, count, data.d, self.relative_to, reason=why)
        low = high = math.nan
        if not self.dataset:
            low, high = bootstrap(torch.tensor(entropies), torch.arange(count), seed)
        mean = sum(entropies) / len(entropies)
        why = "" if low == low else "no interval: one matrix" if self.dataset else f"no interval: {count} documents are too few"
        share = sum(shares) / len(shares)
        return Measure(
            self.quantity, self.name, mean, count, data.d, self.relative_to, low, high, why, details={"share": share}
        )


def linear_entropy(rows: Tensor, alpha: float) -> float:
    """S_alpha of Z Z^T / tr(Z Z^T) for Z ``[n, d]`` in float64, from the smaller of Z Z^T and Z^T Z, in nats."""
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    return entropy_of_spectrum(torch.linalg.eigvalsh(gram), alpha)
