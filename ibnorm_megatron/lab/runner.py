"""Training what a study still lacks: several runs at a time, together with whoever else works in the same folder.

Each round asks the ledger what is due, claims what nobody trains, starts it, and records what has ended. A round keeps
nothing that a kill could take: entries are in the ledger, states in the runs' folders, claims go with their processes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import Problem, RunFailure, UserError
from .design import due as due_of
from .gathering import current
from .keeping import Keeper
from .launching import Launch, ended, failed, is_busy, launch, recorded
from .ledger import Ledger
from .live import Live, duration
from .locks import Claims
from .matching import check
from .progress import Running, cost, flops_left, running, snapshot
from .trials import Entry, Trial

if TYPE_CHECKING:
    from .design import Due
    from .study import Study

#: Seconds between two looks at processes, at the ledger, and at what others may have left.
_LOOK, _AGAIN = 0.2, 1.0

#: Runs that fail in a row, none complete between them, after which more of them would say nothing new.
_ENOUGH_FAILURES = 3

#: What stops a study. Its runs are asked to stop by SIGTERM, and save.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

#: Seconds that a run may take beyond its own run.stop_within, before it is killed.
_GRACE = 30.0

#: A Ctrl-C this many seconds after the first signal is meant: runs are killed. Launchers repeat a signal within one.
_IMPATIENT_SECONDS = 5.0


@dataclass(frozen=True)
class Share:
    """This process's part of a study that ``tasks`` processes run. With locks others' parts are taken after the own one."""

    task: int = 0
    tasks: int = 1

    def holds(self, key: str) -> bool:
        """Whether a trial is in it."""
        return int(key, 16) % self.tasks == self.task


def run_study(
    study: Study,
    *,
    at_once: int | None = None,
    share: Share = Share(),
    retry_failed: bool = False,
    console: Console | None = None,
    due: Callable[[Study, Sequence[Entry]], Due] = due_of,
) -> Due:
    """Train until nothing of the study is left, here or by others. Call it from the main thread.

    Args:
        study: what to run.
        at_once: runs side by side; the study's own number by default.
        share: which trials come first; the only ones where the file system has no locks.
        retry_failed: try again what has failed as often as the study allows.
        console: where progress is shown; stderr by default.
        due: says what is to run.

    Raises:
        UserError: the ledger cannot be read, or runs in it differ in more than the study compares.
        RunFailure: it was stopped, the design cannot go on, or runs fail one after another.
    """
    console = console or Console(stderr=True)
    with Live(study.config.name, console) as live:
        return _Worker(study, at_once or study.config.launcher.at_once, share, retry_failed, live, due).run()


class _Worker:
    def __init__(
        self,
        study: Study,
        at_once: int,
        share: Share,
        retry_failed: bool,
        live: Live,
        due: Callable[[Study, Sequence[Entry]], Due],
    ) -> None:
        self._study, self._at_once, self._share, self._live, self._design = study, at_once, share, live, due
        self._ledger, self._claims, self._keeper = Ledger(study.folder), Claims(study.folder), Keeper(study)
        self._running: dict[str, Launch] = {}
        self._stamp: tuple[int, int] | None = None
        self._entries: list[Entry] = []
        self._forgiven = len(self._ledger.read()) if retry_failed else 0
        self._seen = 0
        self._asked: signal.Signals | None = None
        self._asked_at, self._impatient = math.inf, False
        self._stops: dict[str, int] = {}
        self._failures = 0
        self._began, self._flops_done, self._flops_left = time.monotonic(), 0.0, 0.0
        self._warned: set[str] = set()
        self._due: Due | None = None

    def run(self) -> Due:
        if not self._claims.locks:
            own = "each its own --task" if self._share.tasks > 1 else "one of them only"
            self._warn(f"{self._study.folder} is on a file system without locks: let several `ibnorm lab run` have {own}")
        with self._listening():
            try:
                while self._asked is None:
                    due = self._look()
                    if due.finished:
                        return due
                    self._fill(due)
                    self._wait(due)
            finally:
                self._stop()
        total = f" of about {self._due.total_estimate}" if self._due else ""
        why = f"{self._asked.name} stopped it when {len(self._finished())}{total} trials were done"
        raise RunFailure(Problem("the study", self._study.config.name, why, "the same command goes on"))

    def _look(self) -> Due:
        """What is due by the ledger as it is now.

        Raises:
            UserError: runs in it cannot be compared.
        """
        stamp = self._ledger.stamp()
        if self._due is not None and stamp == self._stamp:
            return self._due
        everything = self._ledger.read()
        if self._ledger.torn:
            self._warn(f"the last line of {self._ledger.path} was cut off by a kill or a full disk: its run is recorded again")
        self._seen = len(everything) if self._stamp is None else self._seen
        entries = current(self._study, everything)
        found = check(entries)
        if found.problems:
            raise UserError(*found.problems)
        for warning in found.warnings:
            self._warn(warning)
        self._flops_done += sum(cost(self._study, entry.trial) for entry in current(self._study, everything[self._seen :]))
        self._entries, self._stamp, self._seen = entries, stamp, len(everything)
        old, new = everything[: self._forgiven], everything[self._forgiven :]
        counted = current(self._study, [entry for entry in old if entry.status != "failed"] + new)
        self._due = self._design(self._study, counted)
        self._flops_left = flops_left(self._study, entries, self._due)
        self._keeper.sweep(entries)
        assert self._due.trials or self._due.finished, "a design that goes on has trials"
        return self._due

    def _fill(self, due: Due) -> None:
        """Start what is due and nobody's, up to as many as run side by side."""
        own = [trial for trial in due.trials if self._share.holds(self._study.key(trial))]
        others = [trial for trial in due.trials if trial not in own] if self._claims.locks else []
        for trial in (*own, *others):
            if len(self._running) >= self._at_once or self._asked is not None:
                return
            if self._study.key(trial) not in self._running and self._start(trial):
                return

    def _start(self, trial: Trial) -> bool:
        """Start one trial, if it is to be had. True where the ledger has changed, so that others may be due."""
        key = self._study.key(trial)
        claim = self._claims.take(key)
        if claim is None:
            return False
        launched = None
        try:
            if self._ledger.stamp() != self._stamp:  # somebody may just have ended this one
                return True
            if is_busy(self._study, trial):
                return False
            if (entry := recorded(self._study, trial)) is not None:
                self._ledger.append(entry)
                return True
            slot = next(slot for slot in range(self._at_once) if slot not in {one.slot for one in self._running.values()})
            launched = launch(self._study, trial, claim, slot=slot, at_once=self._at_once)
            self._running[key] = launched
            self._live.say(f"started {launched.name}")
            return False
        finally:
            if launched is None:
                claim.release()

    def _wait(self, due: Due) -> None:
        """Until a run ends or the ledger changes, or for a moment, after which others may have left something."""
        until = time.monotonic() + _AGAIN
        while self._asked is None:
            self._reap(stopping=False)
            if self._ledger.stamp() != self._stamp or time.monotonic() >= until:
                break
            time.sleep(_LOOK)
        runs = [running(self._study, one.trial) for one in self._running.values()]
        self._live.show(snapshot(due, self._entries, runs, self._seconds_left(runs)))

    def _reap(self, *, stopping: bool) -> None:
        """Record every run whose process has ended."""
        for key, launched in list(self._running.items()):
            if launched.process.poll() is None:
                continue
            entry = ended(self._study, launched, stopping=stopping)
            if entry is None and not stopping:
                self._stops[key] = self._stops.get(key, 0) + 1
                if self._stops[key] >= self._study.config.launcher.attempts:
                    entry = failed(self._study, launched, f"it was stopped from outside {self._stops[key]} times")
            if entry is not None:
                self._ledger.append(entry)
            del self._running[key]
            launched.claim.release()
            self._tell(launched, entry)
            if not stopping:
                self._judge(launched, entry)

    def _tell(self, launched: Launch, entry: Entry | None) -> None:
        if entry is None:
            self._live.say(f"stopped {launched.name}: it goes on from what it saved")
            return
        result = f"loss {entry.loss:.4f}" if entry.loss is not None else entry.reason
        took = f" ({duration(entry.found['seconds'])})" if entry.found.get("seconds") else ""
        self._live.say(f"{entry.status} {launched.name}: {result}{took}")

    def _judge(self, launched: Launch, entry: Entry | None) -> None:
        """Give up where nothing but failures comes.

        Raises:
            RunFailure: so many came in a row that the next would fail too.
        """
        if entry is None:
            return
        self._failures = self._failures + 1 if entry.status == "failed" else 0
        if self._failures >= _ENOUGH_FAILURES:
            why = f"{self._failures} starts in a row failed, the last with: {entry.reason.rstrip('.')}"
            mend = f"look into {launched.log}, mend that, and go on with --retry-failed"
            raise RunFailure(Problem("the study", self._study.config.name, why, mend))

    def _stop(self) -> None:
        """Ask all runs to stop, wait while they save, and record those that end by themselves meanwhile."""
        if not self._running:
            return
        self._live.say(f"stopping {len(self._running)} runs, which save first; another Ctrl-C kills them")
        longest = max(launched.config.run.stop_within for launched in self._running.values())
        deadline = time.monotonic() + longest + _GRACE
        for launched in self._running.values():
            launched.signal(signal.SIGTERM)
        while self._running:
            if self._impatient or time.monotonic() >= deadline:
                for launched in self._running.values():
                    launched.signal(signal.SIGKILL)
            self._reap(stopping=True)
            time.sleep(_LOOK)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Note signals that ask to stop, while the block runs."""

        def hear(number: int, frame: object) -> None:
            now = time.monotonic()
            if self._asked is None:
                self._asked, self._asked_at = signal.Signals(number), now
            elif number == signal.SIGINT and now - self._asked_at > _IMPATIENT_SECONDS:
                self._impatient = True

        previous = {number: signal.signal(number, hear) for number in _STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _finished(self) -> list[str]:
        return [entry.key for entry in self._entries if entry.status != "failed"]

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._live.say(f"warning: {text}")

    def _seconds_left(self, runs: Sequence[Running]) -> float:
        """Of the whole study, by the FLOPs that were done since this process began, here and by others."""
        costs = {one.name: cost(self._study, one.trial) for one in self._running.values()}
        partly = sum(costs[run.name] * (run.step - run.first) / max(1, run.steps - run.first) for run in runs)
        done, left = self._flops_done + partly, self._flops_left - partly
        return max(0.0, left) * (time.monotonic() - self._began) / done if done > 0 else math.nan
