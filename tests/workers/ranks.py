"""Ranks of a real run without a launcher, forked from a server that has imported everything: a launch takes a second."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path


class Ranks:
    """Processes that train one config together.

    Args:
        arguments: of ``ibnorm_megatron.train``; ``{rank}`` in one is each rank's own.
        size: how many.
        folder: for what they print.
        plant: ``module:function`` called in every rank before it trains.
        present: the ranks that are really started.
        environ: more of the environment.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        size: int,
        folder: Path,
        plant: str = "",
        present: Sequence[int] | None = None,
        **environ: str,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ibnorm_megatron.verify.warm"])
        folder.mkdir(parents=True, exist_ok=True)
        warm = context.Process(target=os.getpid)  # the server imports for seconds before it forks the first
        warm.start()
        warm.join()
        world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environ}
        self._logs = {rank: folder / f"rank-{rank}.log" for rank in (range(size) if present is None else present)}
        self._processes: dict[int, ForkServerProcess] = {}
        for rank, log in self._logs.items():
            own = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            self._processes[rank] = context.Process(target=_rank, args=(list(arguments), own, str(log), plant), daemon=True)
            self._processes[rank].start()

    def signal(self, rank: int, number: int) -> None:
        """Send a rank a signal."""
        os.kill(self._pid(rank), number)

    def _pid(self, rank: int) -> int:
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    def codes(self, ranks: Sequence[int], seconds: float) -> list[int | None]:
        """The exit codes of ranks, each of which has so long; None of one that goes on."""
        deadline = time.monotonic() + seconds
        for rank in ranks:
            self._processes[rank].join(max(0.0, deadline - time.monotonic()))
        return [self._processes[rank].exitcode for rank in ranks]

    def alive(self, rank: int) -> bool:
        """Whether a rank goes on."""
        return self._processes[rank].is_alive()

    def said(self, rank: int) -> str:
        """What a rank has printed so far."""
        return self._logs[rank].read_text(errors="replace") if self._logs[rank].exists() else ""

    def kill(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.kill()
            process.join()


@contextmanager
def ranks(*arguments: object, **options: object) -> Iterator[Ranks]:
    """As :class:`Ranks`, which are gone afterwards."""
    started = Ranks(*arguments, **options)  # type: ignore[arg-type]
    try:
        yield started
    finally:
        started.kill()


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel gives to whoever asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 (no secret)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _rank(arguments: list[str], environ: dict[str, str], log: str, plant: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environ)
    if plant:
        module, _, function = plant.partition(":")
        getattr(import_module(module), function)()
    import torch

    from ibnorm_megatron.train import main

    torch.set_num_threads(1)
    code = main(arguments)
    sys.stdout.flush()
    sys.exit(code)
