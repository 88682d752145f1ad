"""What the guard saw is said, kept and, if it goes on for too long, looked into and the end of the run."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ...errors import Problem
from ..diagnosis import diagnose
from ..guard import Guard
from .base import NOT_FINITE, Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer


class GuardReports(Callback):
    """Tell every callback of jumps and of what is not finite; end a run that fails too often in a row, with a diagnosis.

    The guard itself judges within the step, before the update.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def after_step(self, trainer: Trainer) -> None:
        for event in self._guard.events(trainer.state.step):
            trainer.notify_event(event)
        if self._guard.exhausted:
            self._give_up(trainer)

    def state(self) -> Record:
        return self._guard.state()

    def restore(self, state: Record) -> None:
        self._guard.restore(state)

    def branch(self, state: Record) -> None:
        self._guard.restore({**state, "skipped_steps": 0})

    def _give_up(self, trainer: Trainer) -> None:
        step, in_a_row, last = trainer.state.step, self._guard.failed_in_a_row, trainer.take_step.last
        assert last is not None, "the guard was at the brink before this step"
        found = diagnose(trainer.engine, trainer.groups, last)
        said = f"not finite for {in_a_row} step{'s' if in_a_row > 1 else ''} in a row: {found}"
        trainer.notify_event({"step": step, "event": "diagnosis", "says": said, **found.plain()})
        if trainer.groups.first:
            values = {
                "loss": str(self._guard.loss),
                "grad_norm": str(self._guard.grad_norm),
            }  # JSON has no nan
            with suppress(OSError):  # a full disk must not take the state that is saved next; the event holds the same
                trainer.folder.write_diagnosis({"step": step, "in_a_row": in_a_row, **values, **found.plain()})
        self._guard.reprieve()
        value = f"{self._guard.loss:.4g}, and the gradient's norm {self._guard.grad_norm:.4g}"
        mend = (
            "the weights from before the first of them are saved: look at diagnosis.json in the run's folder, and go on from "
            "there or from an older checkpoint"
        )
        trainer.fail(Problem(f"the loss of step {step}", value, said, mend), NOT_FINITE)
