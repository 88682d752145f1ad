"""``python -m MODULE ARGUMENTS`` without its seconds of imports: a real process, forked from one that has imported everything.

It has a pid, an environment, files for what it prints, signals and an exit code of its own, and begins at ``__main__`` as
any does. Not as in a start from nothing: imports are done, and all processes of one server hash strings alike. Tests of
imports, launchers, restarts and numbers of threads start from nothing.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent

_PR_SET_PDEATHSIG = 1


def environment() -> dict[str, str]:
    """The test's environment with the virtual environment's commands in front, and one thread a process."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class Forked:
    """One process, from its start.

    Args:
        module: what ``python -m`` runs.
        arguments: its command line.
        logs: ``LOGS.out`` and ``LOGS.err`` are what it prints.
        environ: its whole environment.
        plant: ``module:function`` called in it first.
    """

    def __init__(self, module: str, arguments: Sequence[str], logs: Path, environ: Mapping[str, str], plant: str = "") -> None:
        logs.parent.mkdir(parents=True, exist_ok=True)
        self._out, self._err = (logs.with_name(f"{logs.name}.{kind}") for kind in ("out", "err"))
        given = (module, list(arguments), dict(environ), str(self._out), str(self._err), plant)
        self._process = _server().Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._process.is_alive()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text(errors="replace") if self._out.exists() else ""

    @property
    def err(self) -> str:
        """What it has said on stderr so far."""
        return self._err.read_text(errors="replace") if self._err.exists() else ""

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for the signal that ended it; None if it goes on after so long."""
        self._process.join(max(0.0, seconds))
        return self._process.exitcode

    def finished(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """What it did, when it has ended; one that has not after so long is killed.

        Raises:
            TimeoutExpired: it was killed.
        """
        code = self.wait(seconds)
        if code is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, seconds, self.out, self.err)
        return subprocess.CompletedProcess(self._process.name, code, self.out, self.err)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.join()


def _server() -> ForkServerContext:
    """The test process's server; it imports for seconds at its first use, and ends with the test process."""
    context = multiprocessing.get_context("forkserver")
    # The second holds the first; but a test of ``ibnorm verify`` may have started the server with the first alone.
    context.set_forkserver_preload(["ibnorm_megatron.verify.warm", "tests.workers.warm"])
    warm = context.Process(target=os.getpid)
    warm.start()
    warm.join()  # so that nobody's limit of time begins before the imports are done
    return context


def _run(module: str, arguments: list[str], environ: dict[str, str], out: str, err: str, plant: str) -> None:
    # It ends with the server, and the server with the test process: unless somebody else has the other end of the server's
    # pipe, which every process that it forks is given.
    os.close(multiprocessing.forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(ROOT)
    warnings.simplefilter("ignore")
    sys.argv = [module, *arguments]
    if plant:
        of, _, function = plant.partition(":")
        getattr(import_module(of), function)()
    import torch

    torch.set_num_threads(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
