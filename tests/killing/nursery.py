"""A process that has imported everything once, forks ranks from itself, and kills them as it is told.

Importing torch, megatron-core and DeepSpeed takes seconds of CPU; a fork takes milliseconds, so hundreds of kills are feasible.
A process of our own, not multiprocessing's fork server: of that there is one a process, and ``ibnorm verify`` has its own use.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fnmatch
import mmap
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .launches import Ended, Kill, Launch

#: Calls whose order on disk matters: what is opened, named and removed. Python reports them before they happen.
_CALLS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
_POLL_SECONDS = 0.002


def serve(connection: Connection) -> None:
    """Answer every :class:`Launch` that comes with :class:`Ended`, until nobody is there to ask."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the harness decides
    _import_everything()
    assert threading.active_count() == 1, "threads do not survive a fork, but the locks that they hold do"
    connection.send(None)
    while True:
        try:
            launch = connection.recv()
        except EOFError:
            return
        connection.send(_run(launch))


def _import_everything() -> None:
    from ibnorm_megatron.quiet import quiet

    quiet()
    import torch

    torch.set_num_threads(1)
    from ibnorm_megatron.parallel import cpu_compat

    cpu_compat.install()  # before DeepSpeed looks for an accelerator
    import deepspeed  # noqa: F401
    import megatron.core  # noqa: F401
    import safetensors.torch  # noqa: F401

    from ibnorm_megatron.data import dataset, loader, tokenizer  # noqa: F401
    from ibnorm_megatron.model import language_model  # noqa: F401
    from ibnorm_megatron.norms import modules  # noqa: F401
    from ibnorm_megatron.parallel import engine  # noqa: F401
    from ibnorm_megatron.train import loop, optimizer, run  # noqa: F401
    from ibnorm_megatron.train.callbacks import (  # noqa: F401
        audit,
        checkpoint,
        console,
        evaluate,
        norm_cost,
        norms,
        records,
        signals,
    )


class _Board:
    """Memory that a rank shares with whoever forked it, so that a kill does not take along what it did last."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def write(self, count: int, what: str) -> None:
        self._memory[:4096] = f"{count}\n{what}".encode(errors="replace")[:4095].ljust(4096, b"\0")

    def read(self) -> tuple[int, str]:
        count, _, what = self._memory[:].rstrip(b"\0").decode(errors="replace").partition("\n")
        return int(count or 0), what


def _run(launch: Launch) -> Ended:
    context = multiprocessing.get_context("fork")
    boards = [_Board() for _ in range(launch.size)]
    started = time.monotonic()
    ranks = [
        context.Process(target=_rank, args=(launch, rank, board), daemon=True, name=f"rank-{rank}")
        for rank, board in enumerate(boards)
    ]
    for rank in ranks:
        rank.start()
    killed, hung = _watch(launch, ranks, started)
    victim = launch.kill.rank if launch.kill and launch.kill.rank is not None else 0
    seconds = time.monotonic() - started
    codes = tuple(rank.exitcode if rank.exitcode is not None else 0 for rank in ranks)
    for rank in ranks:
        rank.close()
    return Ended(codes, killed, hung, seconds, tuple(board.read()[0] for board in boards), boards[victim].read()[1])


def _watch(launch: Launch, ranks: list[BaseProcess], started: float) -> tuple[bool, bool]:
    """Wait until all ranks have ended, and see to it that they do; whether the planned kill struck, and whether they hung."""
    kill, killed, hung, end = launch.kill, False, False, started + launch.limit
    leftovers = _fitting(launch)
    while living := [rank for rank in ranks if rank.is_alive()]:
        wait([rank.sentinel for rank in living], timeout=_POLL_SECONDS)
        dead = [rank for rank in ranks if rank.exitcode is not None]
        if not killed and kill and _struck(launch, kill, ranks, started, leftovers):
            killed, end = True, min(end, time.monotonic() + launch.mourning)
        elif not killed and any(rank.exitcode for rank in dead):
            end = min(end, time.monotonic() + 10.0)  # it ended by itself and should not have: what do the others say?
        if time.monotonic() > end:
            hung = not killed and len(dead) == 0
            for rank in living:
                if hung and rank.pid:
                    os.kill(rank.pid, signal.SIGUSR1)
            time.sleep(0.5 if hung else 0.0)
            for rank in living:
                rank.kill()
    for rank in ranks:
        rank.join()
    if kill and kill.how in ("call", "size") and kill.rank is not None:
        killed = killed or ranks[kill.rank].exitcode in (-signal.SIGKILL, -signal.SIGXFSZ)
    return killed, hung


def _fitting(launch: Launch) -> set[tuple[Path, int]]:
    """The names below the run's folder that the kill waits for, with what makes a new file of the same name another one."""
    found = set()
    for path in launch.run.glob(launch.kill.pattern) if launch.kill and launch.kill.how == "seen" else ():
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_ino))
    return found


def _struck(launch: Launch, kill: Kill, ranks: list[BaseProcess], started: float, leftovers: set[tuple[Path, int]]) -> bool:
    """Kill if it is time to; whether the kill has struck."""
    if kill.how in ("call", "size"):
        assert kill.rank is not None
        return ranks[kill.rank].exitcode in (-signal.SIGKILL, -signal.SIGXFSZ)
    due = time.monotonic() - started >= kill.seconds if kill.how == "time" else bool(_fitting(launch) - leftovers)
    if not due:
        return False
    victims = ranks if kill.rank is None else [ranks[kill.rank]]
    living = [rank for rank in victims if rank.is_alive()]
    for rank in living:
        rank.kill()
    return bool(living)


def _rank(launch: Launch, rank: int, board: _Board) -> None:
    """A rank as a launcher starts it, with a watch on its calls to the file system."""
    log = open(launch.logs / f"rank-{rank}.log", "w")  # noqa: SIM115 (as long as the process lives)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(launch.size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.port)}
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python would make an error of it
    kill = launch.kill if launch.kill and launch.kill.rank == rank else None
    _watch_calls(launch.run, board, kill if kill and kill.how in ("call", "size") else None)
    from ibnorm_megatron.train import main

    sys.exit(main(launch.arguments))


def _watch_calls(run: Path, board: _Board, kill: Kill | None) -> None:
    """Count the calls below ``run`` on the board, and die as ``kill`` says."""
    below, count, fitting, original = str(run), 0, 0, os.fsync
    pattern = (kill.pattern if kill else "") or "*"

    def seen(what: str, path: str) -> None:
        nonlocal count, fitting
        count += 1
        board.write(count, f"{what} {path}")
        fitting += fnmatch.fnmatch(f"{what} {path}", pattern)
        if kill and fitting == kill.call:
            if kill.how == "call":
                os.kill(os.getpid(), signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (kill.size, resource.RLIM_INFINITY))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CALLS or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        relative = event in ("os.remove", "os.rmdir") and arguments[-1] not in (-1, None)  # rmtree goes by descriptors
        if path.startswith(below):
            seen(event, os.path.relpath(path, below))
        elif relative and not os.path.isabs(path):
            folder = os.readlink(f"/proc/self/fd/{arguments[-1]}")
            if folder.startswith(below):
                seen(event, os.path.relpath(os.path.join(folder, path), below))

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if path.startswith(below):
            seen("os.fsync", os.path.relpath(path, below))
        original(descriptor)

    os.fsync = fsync  # the one of these calls that Python does not report
    sys.addaudithook(hook)
