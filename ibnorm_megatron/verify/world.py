"""The parent's side of a world of ranks: start it, ask it, and take it down when a rank fails or hangs."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .messages import Job, Served

#: How long other ranks may take to say what they know once one has failed, and to say where they stand.
_GRACE_SECONDS = 1.0


class WorldFailed(Exception):
    """A rank raised an error, died, or did not answer: one line in ``reason``, what the ranks left in ``details``."""

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(reason)
        self.reason, self.details = reason, details


class World:
    """Ranks that were started together and serve one job after another, until one of them fails.

    Args:
        size: how many.
        folder: for what they print.
        timeout: seconds that a job may take, and that the start may.
        initializer: see :func:`.worker.serve`.
        use_gpu: whether they may use GPUs, of which there have to be as many as ranks.
    """

    def __init__(self, size: int, folder: Path, timeout: float, initializer: str | None, use_gpu: bool) -> None:
        folder.mkdir(parents=True)
        self._folder, self._timeout = folder, timeout
        # Forked from a server that has imported everything, which takes seconds of CPU, once. Not with a GPU: a CUDA driver
        # that has been asked anything does not survive a fork.
        context = multiprocessing.get_context("spawn" if use_gpu else "forkserver")
        if not use_gpu:
            context.set_forkserver_preload(["ibnorm_megatron.verify.warm"])
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = (rank, size, theirs, folder, timeout, initializer, use_gpu)
            process = context.Process(target=_rank, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._met = False

    def run(self, job: Job) -> Served:
        """What the ranks made of a job.

        Raises:
            WorldFailed: and the world is gone.
        """
        try:
            if not self._met:
                port = self._receive(self._connections[0])
                self._send(port, self._connections[1:])
                self._everyone()
                self._met = True
            self._send(job, self._connections)
            served = self._everyone()[0]
        except BaseException:
            self.kill()
            raise
        assert isinstance(served, Served)
        return served

    def close(self) -> None:
        """Let the ranks go."""
        self._send(None, self._connections)
        for process in self._processes:
            process.join(timeout=_GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the ranks, wherever they are; again, it does nothing."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _send(self, message: Any, connections: list[Connection]) -> None:
        for connection in connections:
            try:
                connection.send(message)
            except OSError:  # it died; who waits for its answer will see it
                continue

    def _receive(self, connection: Connection) -> Any:
        answers = self._answers([connection])
        return answers[connection]

    def _everyone(self) -> list[Any]:
        answers = self._answers(self._connections)
        return [answers[connection] for connection in self._connections]

    def _answers(self, connections: list[Connection]) -> dict[Connection, Any]:
        answers: dict[Connection, Any] = {}
        failed: dict[int, str] = {}
        end = time.monotonic() + self._timeout
        while len(answers) + len(failed) < len(connections):
            waiting = [c for c in connections if c not in answers and self._rank_of(c) not in failed]
            ready = wait(waiting, timeout=max(0.0, end - time.monotonic()))
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError):
                    answer = self._death(self._rank_of(connection))
                if isinstance(answer, str):
                    if not failed:
                        end = min(end, time.monotonic() + _GRACE_SECONDS)  # the others wait for it, perhaps for ever
                    failed[self._rank_of(connection)] = answer
                else:
                    answers[connection] = answer
            if not ready:
                if failed:
                    break
                raise self._hung([self._rank_of(connection) for connection in waiting])
        if failed:
            raise _raised(failed)
        return answers

    def _rank_of(self, connection: Connection) -> int:
        return self._connections.index(connection)

    def _death(self, rank: int) -> str:
        process = self._processes[rank]
        process.join(timeout=_GRACE_SECONDS)
        log = self._folder / f"rank-{rank}.log"
        said = log.read_text(errors="replace")[-4000:] if log.exists() else ""
        return f"the process ended with exit code {process.exitcode}\n{said}"

    def _hung(self, silent: list[int]) -> WorldFailed:
        """Ask the silent ranks where they stand."""
        for rank in silent:
            pid = self._processes[rank].pid
            if pid is not None and self._processes[rank].is_alive():
                os.kill(pid, signal.SIGUSR1)
        time.sleep(_GRACE_SECONDS)
        stacks = {rank: self._folder / f"rank-{rank}.stack" for rank in silent}
        found = {rank: path.read_text(errors="replace") if path.exists() else "" for rank, path in stacks.items()}
        places = [f"rank {rank} {_place(stack)}" for rank, stack in found.items()]
        details = "\n".join(f"rank {rank}:\n{stack}" for rank, stack in found.items())
        return WorldFailed(f"no answer within {self._timeout:.0f} s: {', '.join(places)}", details)


def _raised(failed: dict[int, str]) -> WorldFailed:
    """The first to fail speaks; those that fail after it mostly do because of it."""
    rank, text = next(iter(failed.items()))
    others = sorted(failed)
    who = f"rank {rank}" if len(others) == 1 else f"ranks {', '.join(map(str, others))}, first {rank}"
    details = "\n".join(f"rank {number}:\n{told}" for number, told in failed.items())
    return WorldFailed(f"{who}: {text.partition(chr(10))[0]}", details)


def _place(stack: str) -> str:
    """The innermost lines of ours, or else the innermost line, of a stack as faulthandler writes it."""
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\w+)', stack)
    ours = [frame for frame in frames if "ibnorm_megatron" in Path(frame[0]).parts]
    if not (chosen := ours or frames):
        return "does not say where it stands"
    path, line, function = chosen[0]
    return f"stands in {function} ({Path(path).name}:{line})"


def _rank(*arguments: Any) -> None:
    """Where a rank begins; this module imports nothing heavy, so that the parent does not either."""
    from .worker import serve

    serve(*arguments)
