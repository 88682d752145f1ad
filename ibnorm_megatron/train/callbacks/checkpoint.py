"""When state is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoint import save_checkpoint
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer


class Checkpoint(Callback):
    """Save every ``interval`` steps (0: never in between), and where the run ends or stops."""

    doing = "saving"

    def __init__(self, interval: int, keep_last: int) -> None:
        self._interval, self._keep_last = interval, keep_last
        self._saved_at: int | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._saved_at = trainer.state.step or None

    def after_step(self, trainer: Trainer) -> None:
        if self._interval and trainer.state.step % self._interval == 0:
            self._save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.state.step != self._saved_at:
            save_checkpoint(trainer.folder, trainer.engine, trainer.snapshot(), self._keep_last)
            self._saved_at = trainer.state.step
