"""Running pieces side by side, in processes that end when they are told to or when their parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import c_longlong
from multiprocessing import get_context
from typing import Any, Literal

from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.progress import Progress

from .pieces import Piece, Work

_POLL_SECONDS = 0.2

Job = Literal["fingerprint", "encode"]


class _Stopped(Exception):
    """The parent wants this worker to end."""


def run_pieces(work: Work, job: Job, pieces: Sequence[Piece], workers: int, title: str, done: int = 0) -> None:
    """Do a job on every piece.

    Args:
        work: what to do it with.
        job: which method of it.
        pieces: in any order: each is by itself.
        workers: processes; with one, or one piece, it is done here.
        title: what to call it while it runs.
        done: bytes of pieces that were finished before, for progress.

    Raises:
        UserError: a piece's own, or a worker was killed. Other pieces that were being done are given up; those that were
            finished stay.
    """
    workers = min(workers, len(pieces))
    total = done + sum(piece.size for piece in pieces)
    with Progress(title, total=total, done=done, unit="B") as progress:
        shown = _Shown(progress, done, total)
        if workers <= 1:
            counts = [0, 0, 0]

            def tell(*new: int) -> None:
                for i, count in enumerate(new):
                    counts[i] += count
                shown.update(*counts)

            for piece in pieces:
                getattr(work, job)(piece, tell)
            shown.update(*counts, last=True)
        else:
            _in_processes(work, job, pieces, workers, shown)


class _Shown:
    """Passes counts on to the progress bar, a few times a second."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self._progress, self._most, self._shown = progress, total - done, 0
        self._started = self._spoken = time.monotonic()

    def update(self, read: int, documents: int, tokens: int, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self._spoken >= _POLL_SECONDS:
            self._spoken = now
            read = self._most if last else min(read, self._most)  # a data set does not say how large it is
            rate = f", {tokens / max(1e-9, now - self._started) / 1e6:.2f} M tokens/s" if tokens else ""
            self._progress.advance(read - self._shown, f"{documents:,} documents{rate}")
            self._shown = read


def _in_processes(work: Work, job: Job, pieces: Sequence[Piece], workers: int, shown: _Shown) -> None:
    context = get_context("spawn")
    counts = context.RawArray(c_longlong, 3 * workers + 2)  # three for each worker, then the next free slot, then stop
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(work, counts, context.Lock(), os.getpid())
    )
    try:
        pending: set[Future[None]] = {pool.submit(_do, job, piece) for piece in pieces}
        while pending:
            finished, pending = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            shown.update(*(sum(counts[i : 3 * workers : 3]) for i in range(3)))
            for future in finished:
                problems = future.result()
                if problems:
                    raise UserError(*problems)
        shown.update(*(sum(counts[i : 3 * workers : 3]) for i in range(3)), last=True)
    except BrokenProcessPool:
        why, mend = (
            "it was killed, perhaps because memory ran out",
            "run the same command again with fewer --workers: it goes on",
        )
        raise UserError(Problem("a worker process", "gone", why, mend)) from None
    finally:
        counts[3 * workers + 1] = 1
        pool.shutdown(wait=True, cancel_futures=True)


_worker: _Worker  # of this process, in a worker


class _Worker:
    """A worker process's own."""

    def __init__(self, work: Work, counts: Any, lock: Any) -> None:
        self.work, self._counts = work, counts
        with lock:
            self._slot = counts[len(counts) - 2]
            counts[len(counts) - 2] += 1

    def tell(self, *new: int) -> None:
        if self._counts[len(self._counts) - 1]:
            raise _Stopped
        for i, count in enumerate(new):
            self._counts[3 * self._slot + i] += count


def _begin(work: Work, counts: Any, lock: Any, parent: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches every process; the parent tells when to stop

    def watch() -> None:
        while os.getppid() == parent:  # it may be gone already
            time.sleep(_POLL_SECONDS)
        os._exit(1)  # nobody waits for the result, and what is half written has a temporary name

    threading.Thread(target=watch, daemon=True).start()
    _worker = _Worker(work, counts, lock)


def _do(job: Job, piece: Piece) -> tuple[Problem, ...]:
    """Problems come back as a value: an exception would lose them on its way."""
    try:
        getattr(_worker.work, job)(piece, _worker.tell)
    except UserError as error:
        return error.problems
    except _Stopped:
        pass
    return ()
