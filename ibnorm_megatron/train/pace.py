"""What of a step's time is a rank's own, and not spent waiting for others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SCHEDULING = "/proc/self/schedstat"


class Pace:
    """Sums over steps, since they were last taken.

    Attributes:
        steps: how many.
        data_seconds: waiting for the next batches.
        own_seconds: these, and those in which the main thread computed or was ready to and had no core. Waiting for another
            rank's message is neither, on a CPU. Nor is a process that was suspended, a page that came from a disk or a
            sleep outside of data; of a GPU's work nothing is seen but what the host does for it.
    """

    def __init__(self) -> None:
        self.steps, self.data_seconds, self.own_seconds = 0, 0.0, 0.0
        self._data_until, self._computed_until_data = 0.0, 0.0

    @contextmanager
    def step(self) -> Iterator[Pace]:
        """One step; call :meth:`has_data` within it once its batches are there."""
        began = time.perf_counter()
        yield self
        waited = self._data_until - began
        self.steps += 1
        self.data_seconds += waited
        self.own_seconds += waited + _computed() - self._computed_until_data

    def has_data(self) -> None:
        """The batches of this step are there."""
        self._data_until, self._computed_until_data = time.perf_counter(), _computed()

    def take(self) -> tuple[float, float]:
        """Mean ``own_seconds`` and ``data_seconds`` of a step, and begin anew."""
        steps = max(1, self.steps)
        mean = self.own_seconds / steps, self.data_seconds / steps
        self.steps, self.data_seconds, self.own_seconds = 0, 0.0, 0.0
        return mean


def _computed() -> float:
    """Seconds that this thread, the process's main one, has computed or waited for a core so far."""
    queued = 0.0
    with suppress(OSError, IndexError, ValueError), open(_SCHEDULING) as file:  # Linux only, and not in every kernel
        queued = int(file.read().split()[1]) / 1e9
    return time.thread_time() + queued
