"""How strongly IBNorm compresses in the model that was trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ...data.loader import Loader
from ...norms.base import Norm
from ...norms.compression import get_compression
from ...norms.config import IBNormConfig
from ...norms.modules import IBNorm
from ...norms.site import Site
from .base import Callback
from .norm_inputs import show_norms

if TYPE_CHECKING:
    from ..loop import Trainer

#: Of a site on a rank: sigma where the rows do not decide it, lambda, the sum of the rows' variances, and their number.
_Rows = tuple[float | None, float, float, int]


class NormStrength(Callback):
    """After the last step, add ``sigma_over_lambda`` to the summary where the model has an IBNorm with a lambda.

    sigma is the root of the mean variance of a site's rows on a validation micro-batch; the figure is the geometric mean of
    sigma / lambda over all such sites. Lambda alone says little of a norm with an absolute scale: what matters is how far the
    rows reach beyond it, and that the model decides. In units of sigma (scale relative) it is 1 / lambda.
    """

    doing = "measuring norms"

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def on_end(self, trainer: Trainer) -> None:
        if trainer.state.step < trainer.config.train.steps or not _any_compresses(trainer):
            return
        found: dict[Site, _Rows] = {}

        def see(norm: Norm, x: Tensor) -> None:
            if isinstance(norm, IBNorm) and get_compression(norm.compression).of_ratio:
                assert norm.site is not None
                unit = 1.0 if norm.scale == "relative" else None
                found[norm.site] = (unit, float(norm.current_lambda()), *_variance(norm, x))

        show_norms(trainer, self._loader, see)
        of_ranks: list[dict[Site, _Rows]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(of_ranks, found)  # a stage has its own sites, a tensor or context rank perhaps its own rows
        of_sites = [_ratio([of_rank[site] for of_rank in of_ranks if site in of_rank]) for site in set().union(*of_ranks)]
        trainer.summary["sigma_over_lambda"] = geometric_mean(of_sites)


def _any_compresses(trainer: Trainer) -> bool:
    """Whether any stage has such a norm: all ranks have to agree on it."""
    norms = trainer.config.model.norm_sites().values()
    return any(isinstance(norm, IBNormConfig) and get_compression(norm.compression).of_ratio for norm in norms)


def _variance(norm: Norm, x: Tensor) -> tuple[float, int]:
    """Sum of the variances of rows ``[..., d]``, whose columns may be spread over ranks, and the number of rows."""
    rows = x.double()
    sums = torch.stack([rows.sum(-1), rows.square().sum(-1)])
    if norm.process_group is not None:
        dist.all_reduce(sums, group=norm.process_group)
    mean, square = sums / norm.hidden_size
    return float((square - mean.square()).sum()), mean.numel()


def _ratio(of_ranks: Sequence[_Rows]) -> float:
    """sigma / lambda of a site, from the rows of all ranks."""
    unit, strength = of_ranks[0][:2]
    variance = sum(rows[2] for rows in of_ranks) / sum(rows[3] for rows in of_ranks)
    return (unit or math.sqrt(max(variance, torch.finfo(torch.float32).tiny))) / strength
