"""A running mean of the weights: kept beside them, saved with them, evaluated in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import Callback

if TYPE_CHECKING:
    from ...parallel.engine import Engine
    from ..loop import Trainer

#: What the mean is called in a checkpoint, beside the kinds of the optimizer's state.
AVERAGE = "average"


class WeightAverage(Callback):
    """After each step taken, mean = decay * mean + (1 - decay) * weight, in float32 (Polyak & Juditsky 1992, with forgetting).

    A rank has the mean of what ZeRO left it of the weights, so it costs a third of the optimizer's state. A skipped step does
    not move it.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._mean: dict[str, Tensor] = {}
        self._skipped = 0

    def on_start(self, trainer: Trainer) -> None:
        self._skipped = trainer.guard.skipped_steps
        if not self._mean:  # nothing was restored
            self._mean = {name: weight.clone() for name, weight in _weights(trainer.engine).items()}

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        if trainer.guard.skipped_steps > self._skipped:
            self._skipped = trainer.guard.skipped_steps
            return
        for name, weight in _weights(trainer.engine).items():
            self._mean[name].lerp_(weight, 1 - self._decay)

    def values(self) -> Mapping[str, Tensor]:
        """By parameter, the mean of what this rank holds of it, in the order of its fragment."""
        return self._mean

    def take_back(self, mean: Mapping[str, Tensor]) -> None:
        """Go on with a mean from a checkpoint."""
        self._mean = dict(mean)

    @contextmanager
    def in_place(self, engine: Engine) -> Iterator[None]:
        """The model has the mean for weights meanwhile. Collective."""
        weights = _weights(engine)
        before = {name: weight.clone() for name, weight in weights.items()}
        _write(engine, weights, self._mean)
        try:
            yield
        finally:
            _write(engine, weights, before)


def _weights(engine: Engine) -> dict[str, Tensor]:
    fragments = engine.optimizer_state.fragments(engine.module.logical_parameters())
    return {name: fragment.values["weight"] for name, fragment in fragments.items()}


@torch.no_grad()
def _write(engine: Engine, weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])
    engine.optimizer_state.end_load({})
