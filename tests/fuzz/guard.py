"""Limits around one call: a reader may neither hang nor take much memory, whatever it is given."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Seconds that one case may take. Most take milliseconds; the margin is for a busy machine.
SECONDS = 20.0

#: Bytes that one case may map beyond what the process has.
BYTES = 1 << 30


class Hangs(BaseException):
    """A case ran into the limit of time. Nothing that a reader catches."""


@contextmanager
def limits(seconds: float = SECONDS, size: int = BYTES) -> Iterator[None]:
    """Raise :class:`Hangs` after so many seconds, and MemoryError above so many bytes. In the main thread only."""

    def interrupt(number: int, frame: object) -> None:
        raise Hangs(f"it took more than {seconds:g} s")

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again: an exception in a callback of Python's own is lost
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
