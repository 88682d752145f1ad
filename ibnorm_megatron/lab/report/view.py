"""What the report is made from, sorted once: arms in order, every run with its place in the page, whatever is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ..notes import NONE, Notes
from ..results import Analysis, Estimate, Multiplier, Observation, Paired, Verdict
from ..rules import Recipe
from ..study import StudyConfig
from ..trials import Entry, Trial
from . import words
from .style import Look, looks

#: Where an entry's ``found`` has the realised sigma / lambda: the mean over norm sites, at the end of training.
REALISED = "sigma_over_lambda"


class StudyLike(Protocol):
    """What the report asks of a study."""

    @property
    def config(self) -> StudyConfig: ...

    @property
    def path(self) -> Path: ...

    @property
    def folder(self) -> Path: ...

    @property
    def overridden(self) -> Sequence[tuple[str, str]]:
        """What is unfair in the design and was wanted all the same: names and sentences."""
        ...

    @property
    def overrides(self) -> Sequence[str]:
        """Fields that were given beside the study's file."""
        ...

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Batch, warm-up and steps by size."""
        ...


class Choice(Protocol):
    """What tuning chose for an arm."""

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def strength(self) -> float | None: ...


class DueLike(Protocol):
    """How far the study is."""

    @property
    def finished(self) -> bool: ...

    @property
    def stage(self) -> str | None: ...

    @property
    def total_estimate(self) -> int: ...

    @property
    def choices(self) -> Mapping[str, Choice]: ...

    @property
    def lost(self) -> Sequence[tuple[Trial, str]]: ...

    @property
    def unfair(self) -> Sequence[tuple[str, str]]: ...


@dataclass(frozen=True)
class Run:
    """A row of the table of runs.

    ``anchor`` is its place in the page. A run of the ledger has ``trial`` and ``entry``, any other its ``observation``.
    ``superseded``: it failed, and the ledger has a later try; it is shown, and counted nowhere.
    """

    anchor: str
    arm: str
    size: str
    seed: int
    stage: str
    status: str
    reason: str
    tokens: int
    flops: float
    loss: float
    seconds: float
    folder: str
    trial: Trial | None = None
    entry: Entry | None = None
    observation: Observation | None = None
    superseded: bool = False

    @property
    def title(self) -> str:
        """The run in a line."""
        rate = f", learning rate {words.rate(self.trial.learning_rate)}" if self.trial else ""
        end = f"loss {words.loss(self.loss)}" if self.status == "complete" else self.status
        return f"{self.arm}, {self.size}, seed {self.seed}{rate}, {words.count(self.tokens)} tokens: {end}"

    def found(self, name: str) -> float:
        """A figure of the run's summary; NaN where it has none."""
        value = self.entry.found.get(name) if self.entry else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


@dataclass(frozen=True)
class View:
    """All that sections and pictures look at."""

    analysis: Analysis
    study: StudyLike | None
    entries: tuple[Entry, ...]
    due: DueLike | None
    notes: Notes = NONE

    @property
    def interim(self) -> bool:
        """Whether something is left to run, so that all of it may still change."""
        return bool(self.notes.stuck) or (self.due is not None and not self.due.finished)

    @property
    def progress(self) -> str:
        """How many runs have ended."""
        done = sum(not run.superseded for run in self.runs)
        return f"{done:,} of about {words.plural(self.due.total_estimate, 'run')}" if self.due else words.plural(done, "run")

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """The baseline first, the control last, the others as the study has them."""
        first, last = self.analysis.baseline, self.analysis.control
        named = [*(self.study.config.arms if self.study else ()), *(run.arm for run in self.runs)]
        others = [arm for arm in dict.fromkeys(named) if arm not in (first, last)]
        return (first, *others, *([last] if last else []))

    @property
    def compared(self) -> tuple[str, ...]:
        """Arms but the baseline."""
        return self.arms[1:]

    @cached_property
    def looks(self) -> dict[str, Look]:
        """How every arm is drawn."""
        return looks(self.arms, self.analysis.baseline)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Sizes' parameters, the smallest first."""
        found = {run.size: run.parameters for run in self.analysis.observations}
        found |= {entry.trial.size: entry.parameters for entry in self.entries}
        return dict(sorted(found.items(), key=lambda size: size[1]))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run: those of the ledger, and observations that are not in it."""
        known = {entry.folder for entry in self.entries}
        foreign = [each for each in self.analysis.observations if each.run not in known]
        last = {entry.key: number for number, entry in enumerate(self.entries)}
        made = [_of_entry(entry, f"run-{number + 1}", last[entry.key] != number) for number, entry in enumerate(self.entries)]
        return (*made, *(_foreign(each, f"run-{number}") for number, each in enumerate(foreign, len(made) + 1)))

    @cached_property
    def titles(self) -> dict[str, str]:
        """What is said of a place of the page."""
        return {run.anchor: run.title for run in self.runs}

    def anchor_of(self, observation: Observation) -> str:
        """The place of an observation's run in the page."""
        return self._anchors[_identity(observation)]

    @cached_property
    def _anchors(self) -> dict[tuple[object, ...], str]:
        by_folder = {run.folder: run.anchor for run in self.runs if run.entry and not run.superseded}
        foreign = {_identity(run.observation): run.anchor for run in self.runs if run.observation}
        return {_identity(each): by_folder.get(each.run) or foreign[_identity(each)] for each in self.analysis.observations}

    def of(self, arm: str, *stages: str) -> list[Run]:
        """An arm's runs of some stages; of all, where none is named."""
        return [run for run in self.runs if run.arm == arm and not run.superseded and (not stages or run.stage in stages)]

    def multiplier(self, arm: str) -> Multiplier | None:
        """An arm's compute multiplier."""
        return next((each for each in self.analysis.multipliers if each.arm == arm), None)

    def verdict(self, arm: str) -> Verdict | None:
        """What is said of an arm."""
        return next((each for each in self.analysis.verdicts if each.arm == arm), None)

    def together(self, arm: str) -> Paired | None:
        """An arm's paired difference over all cells."""
        return next((each for each in self.analysis.paired if each.arm == arm and each.size is None), None)

    def cells(self, arm: str) -> list[Paired]:
        """An arm's paired differences by size and horizon."""
        return [each for each in self.analysis.paired if each.arm == arm and each.size is not None]

    def flops_of(self, cell: Paired) -> float:
        """Mean compute of a cell's runs."""
        near = [
            run.flops
            for run in self.analysis.observations
            if run.size == cell.size and cell.horizon is not None and math.isclose(run.horizon, cell.horizon, rel_tol=0.05)
        ]
        return sum(near) / len(near) if near else math.nan

    @property
    def band(self) -> Estimate | None:
        """The identity control's compute multiplier: what the comparison shows where there is nothing to show."""
        found = self.multiplier(self.analysis.control) if self.analysis.control else None
        return found.mean if found else None

    def choice(self, arm: str) -> Choice | None:
        """What tuning chose, once it has."""
        choices: Mapping[str, Any] = self.due.choices if self.due else {}
        return choices.get(arm)


def _of_entry(entry: Entry, anchor: str, superseded: bool) -> Run:
    trial, nan = entry.trial, math.nan
    return Run(
        anchor=anchor,
        arm=trial.arm,
        size=trial.size,
        seed=trial.seed,
        stage=trial.stage,
        status=entry.status,
        reason=entry.reason,
        tokens=entry.tokens,
        flops=entry.flops,
        loss=nan if entry.loss is None else entry.loss,
        seconds=nan if entry.seconds is None else entry.seconds,
        folder=entry.folder,
        trial=trial,
        entry=entry,
        superseded=superseded,
    )


def _foreign(observation: Observation, anchor: str) -> Run:
    return Run(
        anchor=anchor,
        arm=observation.arm,
        size=observation.size,
        seed=observation.seed,
        stage="main",
        status="complete" if math.isfinite(observation.loss) else "failed",
        reason=observation.failure,
        tokens=observation.tokens,
        flops=observation.flops,
        loss=observation.loss,
        seconds=observation.seconds,
        folder=observation.run,
        observation=observation,
    )


def _identity(observation: Observation) -> tuple[object, ...]:
    return observation.arm, observation.size, observation.seed, observation.tokens, observation.run
