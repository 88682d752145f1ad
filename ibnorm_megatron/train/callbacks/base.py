"""The moments of a run at which something may happen that the loop knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..loop import Trainer

Record = dict[str, Any]

#: The kind of failure of a run whose numbers are no longer finite: it has diverged.
NOT_FINITE = "not_finite"


class Callback:
    """Override the moments you need. Every rank calls every callback in the same order, so collectives are allowed.

    Attributes:
        doing: what a rank does while it is within this callback, for whoever asks where it hangs.
    """

    doing = "between steps"

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step, after a checkpoint was restored."""

    def on_record(self, trainer: Trainer, record: Record) -> None:
        """Every ``log.interval`` steps and after the last: what metrics.jsonl holds of the step. Before ``after_step``."""

    def on_gradient(self, trainer: Trainer) -> None:
        """Within a step, where its gradient is complete and the weights are those it is of.

        ``trainer.state`` is still that of the step before. Called for those that override it.
        """

    def after_step(self, trainer: Trainer) -> None:
        """After an optimizer step; ``trainer.state`` says which."""

    def on_evaluate(self, trainer: Trainer, record: Record) -> None:
        """After an evaluation."""

    def on_telemetry(self, trainer: Trainer, record: Record) -> None:
        """What was measured inside the model: ``step``, ``grad_norm`` by part, and ``sites``, figures by site."""

    def on_event(self, trainer: Trainer, event: Record) -> None:
        """Something happened that does not every step: ``step``, ``event`` (its kind), ``says`` (a sentence), and plain values.

        On every rank that tells of it; the first writes and prints.
        """

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, or after the step at which the run was asked to stop."""

    def close(self) -> None:
        """Whatever happened, an error included: give back what is held. Called once for every callback."""

    def say(self) -> float:
        """A number for all ranks, sent with the next step's first message; of callbacks that override this."""
        return 0.0

    def hear(self, trainer: Trainer, total: float) -> None:
        """The sum of what all ranks said before the step that was just taken; before ``on_record``."""

    def state(self) -> Record:
        """What of this callback a checkpoint must hold: plain values, the same on every rank."""
        return {}

    def restore(self, state: Record) -> None:
        """Take back what :meth:`state` gave."""

    def branch(self, state: Record) -> None:
        """Take over what :meth:`state` gave in another run, at whose checkpoint this one begins. What a run records of itself
        begins anew."""
        self.restore(state)


def speaks(callback: Callback) -> bool:
    """Whether a callback has something to say to all ranks."""
    return type(callback).say is not Callback.say


def looks_at_gradients(callback: Callback) -> bool:
    """Whether a callback has something to do amid a step."""
    return type(callback).on_gradient is not Callback.on_gradient
