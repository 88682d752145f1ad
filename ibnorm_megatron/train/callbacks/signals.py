"""How a run is asked to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer

#: A second Ctrl-C this many seconds after the first is meant: it kills. Launchers repeat a signal within one.
_IMPATIENT_SECONDS = 5.0
#: SIGUSR1 is what Slurm sends with --signal some time before it preempts a job or its time is up.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopOnSignal(Callback):
    """On SIGTERM, SIGINT or SIGUSR1 let the step finish, save, and stop; all ranks stop after the same step.

    Whoever stops a job often signals both the launcher and its processes, and the launcher signals them again; so only a
    SIGINT that comes seconds after the first signal, from somebody who does not want to wait, ends the process at once.

    A handler runs when the main thread comes back to Python. Whether it does within ``run.stop_within`` seconds is looked at
    by the run's watch (:mod:`ibnorm_megatron.train.liveness`), which ends the process if not.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._asked_at: float | None = None

    def on_start(self, trainer: Trainer) -> None:
        def request(number: int, frame: object) -> None:
            now = time.monotonic()
            self._asked_at = self._asked_at or now
            if number == signal.SIGINT and now - self._asked_at > _IMPATIENT_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, request)

    def say(self) -> float:
        return float(self._asked_at is not None)

    def hear(self, trainer: Trainer, total: float) -> None:
        if total:
            trainer.stop()

    def close(self) -> None:
        # A launcher that sees a rank die signals the others at once, which are about to say who it was and why they end.
        failed = sys.exc_info()[0] is not None and dist.get_world_size() > 1
        if self._asked_at is None and not failed:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            return
        # An ending process ignores signals that are still on their way: Python takes handlers away some time before its end,
        # but leaves this. SIGINT is still heard, since who repeats it after seconds means it.
        for number in set(STOP_SIGNALS) - {signal.SIGINT}:
            signal.signal(number, signal.SIG_IGN)
