"""Runs that are killed again and again, and have to end as if nobody had touched them.

A :class:`Yard` starts runs of the launch target in real rank processes and kills them. :meth:`Yard.undisturbed` trains a case
once, in peace; :meth:`Yard.story` trains it again through any number of kills, looking after every one at what lies on disk,
and in the end at every loss, gradient norm, weight and moment of the optimizer.
"""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.ports import free_port

from ..distributed import ROOT
from .launches import Ended, Kill, Launch
from .nursery import serve
from .plans import TINY, Case, Meddler, Undisturbed, phase
from .state import contents, differing, files, named_checkpoint, records, resumed, step_of, summary


class Lost(AssertionError):
    """A run did not come out as if nothing had happened."""


@dataclass
class Tale:
    """What happened to one run until it was complete.

    Attributes:
        kills: each with where it struck, in a word, and the last call to the file system before it.
        starts: how often the command was given.
        resumed: how many of these went on from a checkpoint.
    """

    kills: list[tuple[Kill, str, str]] = field(default_factory=list)
    starts: int = 0
    resumed: int = 0


class Yard:
    """Where runs are started and killed; use as a context manager.

    Args:
        data: a prepared folder.
        vocabulary: its tokenizer's size.
        folder: for runs and logs.
        common: overrides of every case, after :data:`TINY`.
    """

    def __init__(self, data: Path, vocabulary: int, folder: Path, common: Iterable[str] = ()) -> None:
        self._folder = folder
        self._common = (*TINY, f"data.path={data}", f"model.vocab_size={vocabulary}", *common)
        context = multiprocessing.get_context("spawn")
        self._nursery, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), name="nursery")
        self._process.start()
        theirs.close()
        self._nursery.recv()
        self._peace: dict[Case, Undisturbed] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Yard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._nursery.close()  # which ends it
        self._process.join(timeout=10)
        self._process.kill()
        self._process.join()

    def launch(self, case: Case, run: Path, kill: Kill | None = None, mourning: float = 0.1) -> Ended:
        """Give the run's command once."""
        logs = self._logs(run)
        logs.mkdir(parents=True, exist_ok=True)
        arguments = (str(ROOT / "configs" / "tiny_llama.yaml"), *self._common, *case.overrides, f"run.dir={run}")
        self._nursery.send(Launch(arguments, case.ranks, free_port(), run, logs, kill, mourning))
        ended = self._nursery.recv()
        assert isinstance(ended, Ended)
        return ended

    def undisturbed(self, case: Case) -> Undisturbed:
        """The case in peace; it is run once."""
        if case not in self._peace:
            run = self._folder / f"peace-{len(self._peace)}"
            ended = self.launch(case, run)
            if any(ended.codes):
                raise Lost(f"{case.name} does not even run undisturbed: {ended}\n{self._said(run)}")
            largest = max(path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file())
            self._peace[case] = Undisturbed(run, ended.calls, ended.seconds, largest)
        return self._peace[case]

    def story(
        self,
        case: Case,
        kills: Iterable[Kill],
        mourning: float = 0.1,
        meddler: Meddler = Meddler(),  # noqa: B008 (it has no state)
    ) -> Tale:
        """Train the case with these kills, one a start, until it is complete; after the last of them, in peace.

        Args:
            case: what to train.
            kills: one for each start.
            mourning: see :class:`Launch`.
            meddler: what happens to the run's folder before every start.

        Raises:
            Lost: a start did not go on from the newest complete state, failed by itself, or the run ended differently.
        """
        peace = self.undisturbed(case)
        run = self._folder / f"killed-{next(self._numbers)}"
        tale = Tale()
        for kill in itertools.chain(kills, [None]):
            ended = self._start(case, run, kill, mourning, tale, meddler)
            if kill and ended.killed:
                tale.kills.append((kill, phase(ended.last), ended.last))
            if not any(ended.codes):
                break
        self._compare(case, run, peace, tale)
        shutil.rmtree(run)
        shutil.rmtree(self._logs(run))
        return tale

    def _start(
        self,
        case: Case,
        run: Path,
        kill: Kill | None,
        mourning: float,
        tale: Tale,
        meddler: Meddler,
    ) -> Ended:
        meddler.touch(run)
        before, state = resumed(run), meddler.newest(run)
        over = summary(run).get("status") == "complete"
        ended = self.launch(case, run, kill, mourning)
        tale.starts += 1
        story = f"{case.name}, start {tale.starts}, {kill or 'in peace'}: {ended}"
        if ended.hung:
            raise Lost(f"{story}\nhung\n{self._said(run)}")
        if not ended.killed and any(ended.codes):
            raise Lost(f"{story}\nfailed by itself\n{self._said(run)}")
        after, expected = resumed(run), step_of(state)
        new = after[len(before) :]
        if after[: len(before)] != before or new not in ([], [expected]) or (expected == 0 and new):
            raise Lost(f"{story}\nwent on at {after} after {before}, but the newest complete state was {state}")
        if not ended.killed and expected and not new and not over:
            raise Lost(f"{story}\ndid not say that it went on at {state}")
        tale.resumed += bool(new)
        if step_of(meddler.newest(run)) < expected:
            raise Lost(f"{story}\nlost {state}: now {meddler.newest(run)} is the newest")
        self._readable(run, meddler.newest(run), story)
        return ended

    def _readable(self, run: Path, name: str | None, story: str) -> None:
        """Whatever a kill left, a reader finds whole files only, and a whole checkpoint."""
        if name:
            try:
                contents(run / "checkpoints" / name)
            except Exception as error:
                raise Lost(f"{story}\nleft {name} damaged: {error}") from error
        summary(run)
        steps = [record["step"] for record in records(run) if "loss" in record]
        if steps != list(range(1, len(steps) + 1)):
            raise Lost(f"{story}\nleft records of steps {steps}")
        if len(steps) < step_of(name):
            raise Lost(f"{story}\nleft {name}, and records up to step {len(steps)} only")

    def _compare(self, case: Case, run: Path, peace: Undisturbed, tale: Tale) -> None:
        names = [named_checkpoint(run), named_checkpoint(peace.run)]
        pairs: dict[str, tuple[Any, Any]] = {
            "files": (files(run), files(peace.run)),
            "records": (records(run), records(peace.run)),
            "summary": (summary(run), summary(peace.run)),
            "latest": (names[0], names[1]),
            "state": tuple(contents(r / "checkpoints" / str(n)) for r, n in zip((run, peace.run), names, strict=True)),
        }
        found = [text for what, (ours, theirs) in pairs.items() for text in differing(ours, theirs, what)]
        if found:
            told = "\n".join(f"{kill}: {where} ({last})" for kill, where, last in tale.kills)
            raise Lost(f"{case.name} came out differently:\n" + "\n".join(found[:20]) + f"\nafter\n{told}\nin {run}")

    def _logs(self, run: Path) -> Path:
        return self._folder / "logs" / run.name

    def _said(self, run: Path) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-6000:]}" for path in sorted(self._logs(run).glob("*.log")))
