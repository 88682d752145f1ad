"""What one step of a run really sends, beside the formula of :mod:`ibnorm_megatron.train.traffic`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ...parallel.counting import CountTraffic
from ...parallel.messages import Message
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer


class CountStep(Callback):
    """Counts what this rank sends in step ``step``, and in the callbacks between the step before and it.

    Put it behind callbacks that communicate. The first step is another than the rest: ZeRO stage 3 then records which
    weights are used when.
    """

    def __init__(self, step: int) -> None:
        assert step > 1
        self._step = step
        self._traffic: CountTraffic | None = None
        self._counting = ExitStack()

    def after_step(self, trainer: Trainer) -> None:
        if trainer.state.step == self._step - 1:
            self._traffic = self._counting.enter_context(CountTraffic(trainer.groups))
        elif trainer.state.step == self._step:
            self.close()

    def close(self) -> None:
        """Count no further."""
        self._counting.close()

    @property
    def messages(self) -> list[Message]:
        """One for each group and operation; empty before the step."""
        return self._traffic.messages() if self._traffic else []
