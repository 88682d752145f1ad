"""When state is saved, and how a run is asked to stop."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from ..checkpoint import save_checkpoint
from .base import Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class Checkpoint(Callback):
    """Save every ``interval`` steps (0: never in between), and where the run ends or stops."""

    def __init__(self, interval: int, keep_last: int) -> None:
        self._interval, self._keep_last = interval, keep_last
        self._saved_at: int | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._saved_at = trainer.state.step or None

    def after_step(self, trainer: Trainer, record: Record) -> None:
        if self._interval and record["step"] % self._interval == 0:
            self._save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.state.step != self._saved_at:
            save_checkpoint(trainer.folder, trainer.engine, trainer.snapshot(), self._keep_last)
            self._saved_at = trainer.state.step


class StopOnSignal(Callback):
    """On SIGTERM or SIGINT let the step finish, then stop; all ranks stop after the same step. A second signal kills."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def on_start(self, trainer: Trainer) -> None:
        def request(number: int, frame: object) -> None:
            trainer.request_stop()
            signal.signal(number, self._previous[number])

        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, request)

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
