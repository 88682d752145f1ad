"""Norms that change as a run goes on hear where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...model.norm_slots import norms_of
from .base import Callback

if TYPE_CHECKING:
    from torch import nn

    from ..loop import Trainer


def tell_norms(module: nn.Module, done: int, steps: int) -> None:
    """Say to every norm of a model that ``done`` of ``steps`` optimizer steps are taken."""
    for norm in norms_of(module).values():
        norm.set_step(done, steps)


class NormSteps(Callback):
    """Tell every norm, before the first step and after each, how many optimizer steps are done.

    A norm draws everything from that, so there is no state to keep, and a resumed run goes on with what it would have had.
    """

    def on_start(self, trainer: Trainer) -> None:
        self._tell(trainer)

    def after_step(self, trainer: Trainer) -> None:
        self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        tell_norms(trainer.engine.module, trainer.state.step, trainer.config.train.steps)
