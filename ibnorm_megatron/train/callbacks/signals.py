"""How a run is asked to stop."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer

#: A second Ctrl-C this many seconds after the first is meant: it kills. Launchers repeat a signal within one.
_IMPATIENT_SECONDS = 5.0
#: SIGUSR1 is what Slurm sends with --signal some time before it preempts a job or its time is up.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopOnSignal(Callback):
    """On SIGTERM, SIGINT or SIGUSR1 let the step finish, save, and stop; all ranks stop after the same step.

    Whoever stops a job often signals both the launcher and its processes, and the launcher signals them again; so only a
    SIGINT that comes seconds after the first signal, from somebody who does not want to wait, ends the process at once. The run's watch ends
    a process that has not stopped within ``run.stop_within`` seconds.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._asked_at: float | None = None

    def on_start(self, trainer: Trainer) -> None:
        def request(number: int, frame: object) -> None:
            now = time.monotonic()
            self._asked_at = self._asked_at or now
            trainer.request_stop()
            trainer.whereabouts.ask_to_stop(signal.Signals(number).name)
            if number == signal.SIGINT and now - self._asked_at > _IMPATIENT_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, request)

    def close(self) -> None:
        if self._asked_at is None:  # a stopping process keeps ignoring the repeats that are still on their way
            for number, handler in self._previous.items():
                signal.signal(number, handler)
