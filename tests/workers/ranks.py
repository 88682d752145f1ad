"""Ranks of a real run without a launcher, forked from a server that has imported everything: a launch takes a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.ports import free_port

from .forked import Forked, environment


class Ranks:
    """Processes that run one module together, each as a launcher starts it.

    Args:
        arguments: the module's command line.
        size: how many.
        folder: for what they print.
        plant: ``module:function`` called in every rank before it trains.
        present: the ranks that are really started.
        module: what they run.
        environ: more of the environment.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        size: int,
        folder: Path,
        plant: str = "",
        present: Sequence[int] | None = None,
        module: str = "ibnorm_megatron.train",
        **environ: str,
    ) -> None:
        world = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        world |= {"MASTER_PORT": str(free_port()), **environ}
        self._processes = {}
        for rank in range(size) if present is None else present:
            own = {**environment(), **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            self._processes[rank] = Forked(module, arguments, folder / f"rank-{rank}", own, plant)

    def signal(self, rank: int, number: int) -> None:
        """Send a rank a signal."""
        self._processes[rank].signal(number)

    def codes(self, ranks: Sequence[int], seconds: float) -> list[int | None]:
        """The exit codes of ranks, each of which has so long; None of one that goes on."""
        deadline = time.monotonic() + seconds
        return [self._processes[rank].wait(deadline - time.monotonic()) for rank in ranks]

    def alive(self, rank: int) -> bool:
        """Whether a rank goes on."""
        return self._processes[rank].alive

    def said(self, rank: int) -> str:
        """What a rank has printed so far, on stdout and then on stderr."""
        return self._processes[rank].out + self._processes[rank].err

    def kill(self) -> None:
        """End all of them."""
        for process in self._processes.values():
            process.kill()


@contextmanager
def ranks(*arguments: object, **options: object) -> Iterator[Ranks]:
    """As :class:`Ranks`, which are gone afterwards."""
    started = Ranks(*arguments, **options)  # type: ignore[arg-type]
    try:
        yield started
    finally:
        started.kill()
