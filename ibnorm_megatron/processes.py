"""Processes that others start."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with_parent() -> Callable[[], object] | None:
    """For ``preexec_fn``: what a child does before it becomes the command, to get a SIGTERM when its parent dies (Linux).

    The kernel sends it, however the parent died. The signal also comes when only the thread that started the child ends: start
    it from the main one.
    """
    if sys.platform != "linux":
        return None
    call, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        call(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it was asked
            os._exit(1)

    return ask
