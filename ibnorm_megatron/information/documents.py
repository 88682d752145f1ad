"""Documents are what is drawn independently, and not tokens: splits, resamples and leave-outs go by document."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from . import LEVEL

#: Held-out documents below which no interval is given.
LEAST_DOCUMENTS = 20

_RESAMPLES = 2000
_CELLS = 1 << 22


@dataclass(frozen=True)
class Split:
    """Numbers of rows, ascending.

    Attributes:
        train: what parameters are fit to.
        choose: what regularization and the moment to stop are chosen by; the marginal is counted on these and ``train``.
        test: what the number is computed from, and nothing else.
    """

    train: Tensor
    choose: Tensor
    test: Tensor


def split(clusters: Tensor, seed: int, shares: tuple[float, float] = (0.6, 0.15)) -> Split:
    """Whole documents by chance into three parts; ``shares`` are those of the first two.

    Args:
        clusters: the document of each row, 0 .. D - 1, ``[n]``.
    """
    count = int(clusters.max()) + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    first, second = round(shares[0] * count), round((shares[0] + shares[1]) * count)
    part = torch.empty(count, dtype=torch.long)
    part[order[:first]], part[order[first:second]], part[order[second:]] = 0, 1, 2
    of_row = part[clusters]
    return Split(*((of_row == number).nonzero().squeeze(1) for number in range(3)))


def bootstrap(values: Tensor, clusters: Tensor, seed: int) -> tuple[float, float]:
    """The interval of the mean over rows, by drawing documents with replacement (percentiles of 2,000 resamples).

    Args:
        values: of each row ``[n]``.
        clusters: the document of each row ``[n]``, any integers.

    Returns:
        Its ends; NaN with fewer than :data:`LEAST_DOCUMENTS` documents.
    """
    place = torch.unique(clusters, return_inverse=True)[1].numpy()
    sums, counts = (np.bincount(place, weights) for weights in (values.double().cpu().numpy(), None))
    documents = len(sums)
    if documents < LEAST_DOCUMENTS:
        return math.nan, math.nan
    draw, means = np.random.default_rng(seed), []
    step = max(1, _CELLS // documents)
    for begin in range(0, _RESAMPLES, step):
        weights = draw.multinomial(documents, np.full(documents, 1 / documents), size=min(step, _RESAMPLES - begin))
        means.append((weights @ sums) / (weights @ counts))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def groups(clusters: Tensor, count: int, seed: int) -> Tensor:
    """Whole documents by chance into groups of nearly equal numbers of documents: the group of each row ``[n]``."""
    documents = int(clusters.max()) + 1
    order = torch.randperm(documents, generator=torch.Generator().manual_seed(seed))
    group = torch.empty(documents, dtype=torch.long)
    group[order] = torch.arange(documents) % count
    return group[clusters]


def from_pseudo_values(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's interval of values that are nearly independent: those of a jackknife, or of disjoint parts."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half
