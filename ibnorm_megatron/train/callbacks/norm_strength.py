"""How strongly IBNorm compresses in the model that was trained."""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING

import torch

from ...norms.compression import get_compression
from ...norms.config import IBNormConfig
from ..norm_view import NormView
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer


class NormStrength(Callback):
    """After the last step, add ``sigma_over_lambda`` to the summary where the model has an IBNorm with a lambda.

    It is the geometric mean of telemetry's figure of that name over all sites that have one. Lambda alone says little of a
    norm with an absolute scale: what matters is how far the rows reach beyond it, and that the model decides. In units
    of sigma (scale relative) it is 1 / lambda, but for eps.
    """

    doing = "measuring norms"

    def __init__(self, view: NormView) -> None:
        self._view = view

    def on_end(self, trainer: Trainer) -> None:
        if trainer.state.step < trainer.config.train.steps or not _any_compresses(trainer):
            return
        of_sites = [found.sigma_over_lambda for found in self._view.figures(trainer).values()]
        smallest = torch.finfo(torch.float32).tiny  # a mean of logarithms has no place for rows of zeros
        trainer.summary["sigma_over_lambda"] = geometric_mean(max(one, smallest) for one in of_sites if one is not None)


def _any_compresses(trainer: Trainer) -> bool:
    """Whether any stage has such a norm: all ranks have to agree on it."""
    norms = trainer.config.model.norm_sites().values()
    return any(isinstance(norm, IBNormConfig) and get_compression(norm.compression).of_ratio for norm in norms)
