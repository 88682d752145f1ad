"""Measuring side by side: in every round every contender runs once, and is compared with the others of the same round.

What else the machine does then hits all of them. Nothing here depends on the device but the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import torch

from ibnorm_megatron.progress import Progress

#: Bytes that are overwritten before a timed call on a GPU: no cache keeps anything over it (an H200 has 50 MB),
#: and while it is written, a quarter of a millisecond, the host queues the call. So a time is the device's, not the host's.
_FLUSH_BYTES = 2**30


class Clock(Protocol):
    """Times one call: its result, and seconds."""

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, float]: ...


class WallClock:
    """Seconds of a call on the CPU, with caches as the call before left them."""

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """The call's result and its seconds."""
        started = time.perf_counter()
        result = work()
        return result, time.perf_counter() - started


class ProcessClock:
    """Seconds that this process computes on the CPU in a call. With one thread that is the time of an idle machine."""

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """The call's result and its seconds."""
        started = time.process_time()
        result = work()
        return result, time.process_time() - started


class CudaClock:
    """Seconds between two events on the GPU around a call, with cold caches."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """The call's result and its seconds."""
        with torch.cuda.device(self._device):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            before.record()
            result = work()
            after.record()
            after.synchronize()
        return result, before.elapsed_time(after) / 1e3


def clock_for(device: torch.device) -> Clock:
    """The clock of a device."""
    if device.type == "cuda":
        return CudaClock(device)
    return ProcessClock() if torch.get_num_threads() == 1 else WallClock()


#: One round of a contender: seconds of each of its parts (forward, backward, ...) by that clock.
Task = Callable[[Clock], dict[str, float]]

#: Seconds of every round, by contender and part.
Samples = dict[str, dict[str, list[float]]]


def measure(
    tasks: dict[str, Task], clock: Clock, rounds: int, *, warm_up: int = 3, progress: Progress | None = None
) -> Samples:
    """Run every task once a round; warm-up rounds, in which things are compiled, do not count."""
    samples: Samples = {name: {} for name in tasks}
    with progress or nullcontext():
        for number in range(-warm_up, rounds):
            for name, task in tasks.items():
                for part, seconds in task(clock).items():
                    if number >= 0:
                        samples[name].setdefault(part, []).append(seconds)
                if progress:
                    progress.advance(note=name)
    return samples


def ratio(own: list[float], base: list[float]) -> float:
    """The median of own over base within each round."""
    return statistics.median(mine / its for mine, its in zip(own, base, strict=True))
