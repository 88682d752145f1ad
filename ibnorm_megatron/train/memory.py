"""How much memory this process held."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Most bytes that were resident since the process began.

    ``ru_maxrss`` alone would not do on Linux: it outlives exec, so that a process is charged with what whoever forked it held.
    """
    try:
        held = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="utf-8").splitlines())
        return int(held["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
