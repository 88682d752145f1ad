"""Ranks that look after one another: each says now and then that it lives, and watches the next one.

Signs of life go through the store at which the ranks met, over a connection of their own: two requests a rank a second,
however many ranks there are. Whoever finds that a rank is gone writes the world's fate, once, and all read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist

from .cpu_compat import device

_INTERVAL = 1.0  # seconds between two signs
_HURRIED = 0.1  # the same, once something is wrong
#: A rank that gives no sign but takes this share of a core computes, and holds Python's lock meanwhile.
_BUSY_SHARE = 0.05

Kind = Literal["gone", "silent", "failed", "stalled", "unstopped"]


@dataclass(frozen=True)
class Sign:
    """What a rank last said of itself.

    Attributes:
        host: its name; ``pid`` on it. ``near`` is equal where one rank can look at another's process.
        born: when the process began, seconds since the epoch: a pid may come back as another process's.
        step: the optimizer step it is in, and ``phase`` of that.
        idle: seconds since either changed.
        beat: counts signs, so that no two are equal.
        left: it has ended its run.
    """

    rank: int
    host: str
    pid: int
    near: str
    born: float
    step: int = 0
    phase: str = "starting"
    idle: float = 0.0
    beat: int = 0
    left: bool = False

    @staticmethod
    def own(rank: int) -> Sign:
        """This process's."""
        host = socket.gethostname()
        try:  # two containers may have one host's name, and pids of their own
            with open("/proc/sys/kernel/random/boot_id") as boot:
                near = f"{boot.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
        except OSError:
            near = host
        return Sign(rank, host, os.getpid(), near, psutil.Process().create_time())

    def place(self) -> str:
        """Where it was, as part of a sentence."""
        return f"in step {self.step} ({self.phase})" if self.step else f"before the first step ({self.phase})"

    def process(self) -> psutil.Process | None:
        """Its process, for ranks near it; None where that has ended."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.born) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


@dataclass(frozen=True)
class Fate:
    """Why a world cannot go on: the first reason that any rank found.

    Attributes:
        kind: ``gone`` its process ended, ``silent`` it gives no sign, ``failed`` it stopped of itself, ``stalled`` no rank
            makes a step, ``unstopped`` a stop that was asked for takes too long.
        rank: whose end it is; None where nobody knows.
        who: host and pid of that rank, as text.
        why: a clause.
        by: the rank that says it.
    """

    kind: Kind
    rank: int | None
    who: str
    why: str
    by: int


class Ring:
    """This rank's part in the watch, in a thread that may block on the store. Collective: all ranks make one.

    Args:
        store: at which the ranks met. It is kept, since the rank that serves it must not end it before others have left.
        served_by: the rank within which the store lives, or None where it is a launcher's.
        where: the store's address, for sentences.
        dead_after: seconds without a sign after which a rank counts as dead.
        standing: gives step, phase and idle seconds of this rank.
    """

    def __init__(
        self,
        store: dist.Store,
        served_by: int | None,
        where: str,
        dead_after: float,
        standing: Callable[[], tuple[int, str, float]],
    ) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._server, self._served_by, self._where = store, served_by, where
        self._dead_after, self._standing = dead_after, standing
        # A launcher that restarts ranks may keep their store, with what an earlier world wrote there.
        nonce = torch.tensor([secrets.randbits(40)], dtype=torch.int64, device=device())
        dist.broadcast(nonce, 0)
        self._store = dist.PrefixStore(f"liveness/{int(nonce)}", store.clone())
        self._own = Sign.own(self.rank)
        self._publish()
        if self.rank == 0:
            self._store.set("fate", "")
        dist.barrier()  # from here on every key that is read is there
        self._next = self._read_sign((self.rank + 1) % self.size)
        self._server_sign = None if served_by is None else self._read_sign(served_by)
        self._silence, self._cpu_seconds = 0.0, 0.0
        self._fate: Fate | None = None
        self._known = threading.Event()
        self.answers = 0  # of the store, so far
        self._wake, self._hurried, self._leaving = threading.Event(), False, False
        self._calls: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)
        self._thread.start()

    @property
    def fate(self) -> Fate | None:
        """Why the world cannot go on, once a rank knows it."""
        return self._fate

    def wait_for_fate(self, seconds: float) -> Fate | None:
        """The fate, waiting so long for somebody to find it."""
        self._hurried = True
        self._wake.set()
        self._known.wait(seconds)
        return self._fate

    def tell(self, fate: Fate, seconds: float = 3.0) -> Fate:
        """Write the fate, unless another rank's stands already; returns the one that stands."""
        self._call(lambda: self._decide(fate), seconds)
        return self._fate or fate

    def census(self, seconds: float = 5.0) -> list[Sign]:
        """The last sign of every rank; empty if the store does not answer in time."""
        return self._call(lambda: [self._read_sign(rank) for rank in range(self.size)], seconds) or []

    def store_is_silent(self, seconds: float) -> None:
        """Take it as the fate, without the store, that it has not answered for so long."""
        self._settle(self._without_store(f"no answer from it for {seconds:.0f} s"))

    def leave(self, seconds: float) -> None:
        """Say goodbye. The rank that serves the store waits for the others' goodbyes, at most so many seconds."""
        self._leaving = True
        self._wake.set()
        self._thread.join(3.0)
        if self._served_by == self.rank and not self._thread.is_alive():
            dead = self._fate is not None and self._fate.kind in ("gone", "silent")
            deadline = time.monotonic() + seconds
            with contextlib.suppress(RuntimeError):
                while self._store.add("left", 0) < self.size - dead and time.monotonic() < deadline:
                    time.sleep(0.05)

    def _call(self, function: Callable[[], Any], seconds: float) -> Any:
        """Let the thread that talks to the store do something; None if that is not done in time."""
        done, result = threading.Event(), []

        def call() -> None:
            result.append(function())
            done.set()

        self._calls.append(call)
        self._wake.set()
        return result[0] if done.wait(seconds) else None

    def _run(self) -> None:
        try:
            last = time.monotonic()
            while True:
                while self._calls:
                    self._calls.pop(0)()
                if self._leaving:
                    break
                now = time.monotonic()
                # A process that was itself suspended has not heard for as long: that is no silence of the others.
                self._look(min(now - last, 2 * _INTERVAL))
                last = now
                self._wake.wait(_HURRIED if self._hurried else _INTERVAL)
                self._wake.clear()
            self._publish(left=True)
            self._store.add("left", 1)
        except RuntimeError:  # torch.distributed's errors are; what they say depends on how the store ended
            self._settle(self._without_store("its store is gone"))

    def _look(self, elapsed: float) -> None:
        self._publish()
        fate, sign = self._store.multi_get(["fate", f"sign/{self._next.rank}"])
        self.answers += 1
        if fate:
            return self._settle(Fate(**json.loads(fate)))
        seen = Sign(**json.loads(sign))
        if seen.left:
            return None
        near = seen.near == self._own.near
        process = seen.process() if near else None
        if near and process is None:
            return self._decide(self._of(seen, "gone", f"its process has ended, last seen {seen.place()}"))
        if seen != self._next or self._computes(process, elapsed):
            self._silence = 0.0
        else:
            self._silence += elapsed
        self._next = seen
        if self._silence > self._dead_after:
            stopped = ", its process is stopped" if process and process.status() == psutil.STATUS_STOPPED else ""
            why = f"no sign of life for {self._silence:.0f} s{stopped}, last seen {seen.place()}"
            self._decide(self._of(seen, "silent", why))
        return None

    def _computes(self, process: psutil.Process | None, elapsed: float) -> bool:
        """Whether a rank that gives no sign takes a core's time, as an import or a compiler does."""
        if process is None:
            return False
        before = self._cpu_seconds
        with contextlib.suppress(psutil.Error):
            self._cpu_seconds = sum(process.cpu_times()[:2])
        return self._cpu_seconds - before > _BUSY_SHARE * max(elapsed, _HURRIED)

    def _publish(self, left: bool = False) -> None:
        step, phase, idle = self._standing()
        self._own = replace(self._own, step=step, phase=phase, idle=idle, beat=self._own.beat + 1, left=left)
        self._store.set(f"sign/{self.rank}", json.dumps(asdict(self._own)))

    def _read_sign(self, rank: int) -> Sign:
        return Sign(**json.loads(self._store.get(f"sign/{rank}")))

    def _of(self, sign: Sign, kind: Kind, why: str) -> Fate:
        return Fate(kind, sign.rank, f"host {sign.host}, pid {sign.pid}", why, self.rank)

    def _decide(self, fate: Fate) -> None:
        self._settle(Fate(**json.loads(self._store.compare_set("fate", "", json.dumps(asdict(fate))))))

    def _settle(self, fate: Fate) -> None:
        if self._fate is None:
            self._fate = fate
            self._known.set()

    def _without_store(self, what: str) -> Fate:
        sign = self._server_sign
        if sign is None:
            return Fate(
                "gone", None, f"at {self._where}", f"{what}, so the launcher that serves it has ended or hangs", self.rank
            )
        ended = sign.near == self._own.near and sign.process() is None
        why = "its process has ended" if ended else f"{what}, which that rank serves at {self._where}"
        return self._of(sign, "gone" if ended else "silent", why)
