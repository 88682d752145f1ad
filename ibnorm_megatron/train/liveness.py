"""A run that cannot go on ends in bounded time, on every rank, and says why: dead ranks, stalls, stops that hang.

Each rank has a thread that watches its main thread (:class:`Watch`), and one that watches another rank
(:class:`~ibnorm_megatron.parallel.liveness.Ring`). The first never touches the network, so nothing can keep it from
ending the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from ..errors import EXIT_RUN_FAILURE, Problem, RunFailure, UserError
from ..parallel.groups import World, meeting_place
from ..parallel.liveness import Fate, Ring, Sign
from .callbacks.signals import STOP_SIGNALS
from .config import RunConfig
from .whereabouts import Whereabouts

_TICK = 0.5  # seconds
#: How long the main thread may take to notice by itself that a rank has died: gloo raises at once, NCCL never.
_GRACE = 5.0
#: The same where a rank stopped of itself: the others mostly do so too, for the same reason, and may be writing yet.
_FAILED_GRACE = 30.0
#: What a collective says whose peer is gone. PyTorch raises bare RuntimeErrors for gloo.
_PEER_ERRORS = re.compile(r"connection|socket|peer|gloo|nccl|timed? ?out|broken pipe|store", re.IGNORECASE)
_AGAIN = "the same command goes on from the newest checkpoint"


class Watch:
    """The thread that watches this rank's main thread and, in a world of several, the fate that ranks find.

    Args:
        world: this rank's place.
        config: gives the bounds.
        folder: of the run; stacks of a stall are written into its ``stalls``.
        whereabouts: what the main thread tells.
        ring: None in a world of one.
    """

    def __init__(self, world: World, config: RunConfig, folder: Path, whereabouts: Whereabouts) -> None:
        self._world, self._config, self._folder, self._whereabouts = world, config, folder, whereabouts
        self._idle = 0.0
        self._reporting = threading.Event()  # the main thread knows, and will say it
        self._ended = threading.Event()
        self._signals, self._stop_asked = _Signals(), ""
        self._ring: Ring | None = None
        if world.size > 1:
            served_by, where = meeting_place()
            store = dist.distributed_c10d._get_default_store()
            self._ring = Ring(store, served_by, where, config.dead_after, self._standing)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching: what ends now ends as it should."""
        self._ended.set()
        self._thread.join()
        self._signals.close()
        if self._ring:
            self._ring.leave(self._config.dead_after if self._ring.fate is None else _GRACE)

    def explain(self, error: BaseException) -> RunFailure | None:
        """What to say in place of an error of the main thread, if that came from another rank's end. Tells others if not."""
        if self._ring is None:
            return None
        if _by_a_peer(error):
            fate = self._ring.wait_for_fate(self._config.dead_after + _GRACE)
            if fate and fate.rank != self._world.rank:
                self._reporting.set()
                return RunFailure(_problem(fate))
        self._reporting.set()
        own = Sign.own(self._world.rank)
        said = re.sub(r"[.;\s]+$", "", str(error).strip().partition("\n")[0])
        why = said if isinstance(error, UserError | RunFailure) else f"{type(error).__name__}: {said}"
        place = f"host {own.host}, pid {own.pid}"
        self._ring.tell(Fate("failed", self._world.rank, place, f"it stopped by itself ({why})", self._world.rank))
        return None

    def _standing(self) -> tuple[int, str, float]:
        return self._whereabouts.step, self._whereabouts.phase, self._idle

    def _run(self) -> None:
        last, moves, answers = time.monotonic(), 0, 0
        known_for = asked_for = unanswered = 0.0
        while not self._ended.wait(_TICK):
            # The time in which this process itself was suspended does not count, here and below.
            elapsed = min(time.monotonic() - last, 2 * _TICK)
            last = time.monotonic()
            self._idle = self._idle + elapsed if moves == self._whereabouts.moves else 0.0
            moves = self._whereabouts.moves
            self._stop_asked = self._stop_asked or self._signals.first()
            asked_for += elapsed if self._stop_asked else 0.0
            if self._ring:
                unanswered = unanswered + elapsed if answers == self._ring.answers else 0.0
                answers = self._ring.answers
                if unanswered > self._config.dead_after:
                    self._ring.store_is_silent(unanswered)
            fate = self._ring.fate if self._ring else None
            if fate:
                known_for += elapsed
                grace = _FAILED_GRACE if fate.kind == "failed" or self._reporting.is_set() else _GRACE
                if fate.kind == "stalled":
                    self._write_stacks()
                if known_for > grace or fate.kind in ("stalled", "unstopped"):
                    self._end(_problem(fate))
            elif asked_for > self._config.stop_within:
                self._end(self._unstopped())
            elif self._idle > self._config.stall_after:
                self._end(self._stalled())

    def _unstopped(self) -> Problem:
        rank, signal, seconds = self._world.rank, self._stop_asked, self._config.stop_within
        why = f"it was asked for by {signal} {seconds:.0f} s ago, and rank {rank} is still {self._place()}{self._behind()}"
        return _problem(self._told(Fate("unstopped", rank, "", why, rank)))

    def _stalled(self) -> Problem:
        rank = self._world.rank
        self._write_stacks()
        why = f"nothing has moved for {self._idle:.0f} s on rank {rank}, {self._place()}{self._behind()}"
        return _problem(self._told(Fate("stalled", rank, str(self._folder / "stalls"), why, rank)))

    def _place(self) -> str:
        return Sign(self._world.rank, "", 0, "", 0.0, *self._standing()).place()

    def _told(self, fate: Fate) -> Fate:
        return self._ring.tell(fate) if self._ring else fate

    def _behind(self) -> str:
        """Who is where, those that are behind first; nothing where that says no more."""
        signs = sorted(self._ring.census() if self._ring else [], key=lambda sign: (sign.step, sign.phase, sign.rank))
        places = [f"{_ranks([sign.rank for sign in found])} {place}" for place, found in groupby(signs, Sign.place)]
        return f" ({', '.join(places[:6])})" if places else ""

    def _write_stacks(self) -> None:
        """Every thread's stack, as files that a later stall does not overwrite."""

        def write() -> None:
            folder = self._folder / "stalls"
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True, parents=True)
                name = f"rank-{self._world.rank}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
                with open(folder / name, "w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(_GRACE)  # a disk that hangs may be what stalled the run

    def _end(self, problem: Problem) -> NoReturn:
        speaker = f"[rank {self._world.rank}] " if self._world.rank else ""
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno() if _has_descriptor() else 2, f"\n{speaker}error: {problem}\n".encode())
        if self._ring:
            self._ring.leave(_GRACE)
        os._exit(EXIT_RUN_FAILURE)  # the main thread hangs; nothing of it can be unwound


class _Signals:
    """Which signals came. Python's handlers wait for the main thread, which may be in a collective that never ends; the
    number that the C handler writes does not."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._previous: int | None = None
        with contextlib.suppress(ValueError):  # only the main thread may; from another one there are no handlers either
            self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def first(self) -> str:
        """The first signal since the last look that asks for a stop, or nothing."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._read, 4096):
                if number in STOP_SIGNALS:
                    return signal.Signals(number).name
        return ""

    def close(self) -> None:
        """Back to what was before."""
        if self._previous is not None:
            signal.set_wakeup_fd(self._previous)
        os.close(self._read)
        os.close(self._write)


@contextlib.contextmanager
def watched(world: World, config: RunConfig, folder: Path, whereabouts: Whereabouts) -> Iterator[None]:
    """Watch what is done inside. To be entered by all ranks together, within their process group.

    Raises:
        RunFailure: in place of a collective's error, where another rank's end caused it.
    """
    watch = Watch(world, config, folder, whereabouts)
    try:
        yield
    except BaseException as error:
        failure = watch.explain(error)
        if failure:
            raise failure from error
        raise
    finally:
        watch.close()


def _by_a_peer(error: BaseException) -> bool:
    communicates = isinstance(error, RuntimeError | ConnectionError) and _PEER_ERRORS.search(str(error))
    return isinstance(error, dist.DistError) or bool(communicates)


def _problem(fate: Fate) -> Problem:
    if fate.kind == "stalled":
        mend = f"see the stacks in {fate.who}, raise run.stall_after if that is no hang; {_AGAIN}"
        return Problem("the run", "stalled", fate.why, mend)
    if fate.kind == "unstopped":
        return Problem("the stop", "not done", fate.why, f"{_AGAIN}, which is whole")
    who = "the ranks' store" if fate.rank is None else f"rank {fate.rank}"
    if fate.kind == "failed":
        return Problem(who, f"stopped ({fate.who})", fate.why, f"see what it says; {_AGAIN}")
    return Problem(who, f"gone ({fate.who})", fate.why, _AGAIN)


def _ranks(ranks: list[int]) -> str:
    """Ranks as a person writes them: rank 3, ranks 0-2, 7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(texts)}"


def _has_descriptor() -> bool:
    with contextlib.suppress(OSError, AttributeError, ValueError):
        return sys.stderr.fileno() >= 0
    return False
