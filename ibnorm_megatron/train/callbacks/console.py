"""What a person at the terminal sees of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...printing import printable
from ...progress import Progress
from .base import Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class Console(Callback):
    """A progress bar with the loss, and a line for every evaluation and every event."""

    def __init__(self) -> None:
        self._progress = Progress("", 0, visible=False)
        self._said = ""

    def on_start(self, trainer: Trainer) -> None:
        train = trainer.config.train
        norm = trainer.config.model.norm_label()
        self._progress = Progress(norm, train.steps, done=trainer.state.step, unit="steps", visible=trainer.groups.first)
        self._progress.start()
        if trainer.state.step:
            self._progress.print(f"{norm}: resumed at step {trainer.state.step}")

    def on_record(self, trainer: Trainer, record: Record) -> None:
        self._said = f"loss {record['loss']:.4f}  {record['tokens_per_second']:,.0f} tokens/s"

    def after_step(self, trainer: Trainer) -> None:
        self._progress.advance(1, self._said)

    def on_evaluate(self, trainer: Trainer, record: Record) -> None:
        bits = record["val_bits_per_byte"]
        self._progress.print(f"step {record['step']}: validation loss {record['val_loss']:.4f}, {bits:.4f} bits a byte")

    def on_event(self, trainer: Trainer, event: Record) -> None:
        self._progress.print(f"step {event['step']}: {printable(event['says'])}")

    def close(self) -> None:
        self._progress.stop()

    def on_end(self, trainer: Trainer) -> None:
        self._progress.stop()
        if trainer.groups.first and trainer.state.step < trainer.config.train.steps:
            print(f"stopped at step {trainer.state.step} with its state saved; the same command goes on from there", flush=True)
