"""How far a study is: what its runs have recorded so far, and how long the rest may take."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .costs import own_steps
from .design import check_trials, expected, main_trials
from .ledger import latest
from .trials import Entry, Stage, Trial

if TYPE_CHECKING:
    from .design import Due
    from .study import Study

#: In the order in which they come.
STAGES: tuple[Stage, ...] = ("tune", "further", "main", "check")

#: The end of metrics.jsonl that is read: some dozens of records.
_TAIL = 1 << 14


@dataclass(frozen=True)
class Running:
    """A run that is being trained.

    Attributes:
        first: the step that it goes on from, of a branch; 0 otherwise.
        step: the last one recorded; ``first`` where there is none.
        loss, tokens_per_second: of that record, NaN without one.
        seconds_left: by the last steps' own time, NaN where nothing is known.
    """

    name: str
    first: int
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment; counts are trials.

    Attributes:
        stage: the one that trials are due of.
        done: complete or diverged.
        failed: whose last start failed.
        total: expected in all.
        running: by this process.
        seconds_left: of the whole study, at the rate so far; NaN where nothing is known.
    """

    stage: str
    done: int
    diverged: int
    failed: int
    total: int
    running: tuple[Running, ...]
    seconds_left: float = math.nan


def counts(entries: Sequence[Entry]) -> dict[str, int]:
    """How many trials are complete, diverged or failed by their last entry."""
    found = {"complete": 0, "diverged": 0, "failed": 0}
    for entry in latest(entries).values():
        found[entry.status] += 1
    return found


def snapshot(due: Due, entries: Sequence[Entry], running: Iterable[Running], seconds_left: float = math.nan) -> Snapshot:
    """The moment that these describe."""
    found = counts(entries)
    done, diverged = found["complete"] + found["diverged"], found["diverged"]
    return Snapshot(due.stage, done, diverged, found["failed"], due.total_estimate, tuple(running), seconds_left)


def running(study: Study, trial: Trial) -> Running:
    """What a run has recorded so far."""
    name = study.name(trial)
    records = [record for record in _tail(study.folder / "runs" / name / "metrics.jsonl") if "step_seconds" in record]
    first, steps = first_step(study, trial), study.recipes[trial.size].steps(trial.horizon)
    if not records:
        return Running(name, first, first, steps, math.nan, math.nan, math.nan)
    last = records[-1]
    left = (steps - last["step"]) * median(record["step_seconds"] for record in records)
    loss = math.nan if last["loss"] is None else last["loss"]
    return Running(name, first, last["step"], steps, loss, last["tokens_per_second"], left)


def first_step(study: Study, trial: Trial) -> int:
    """The step that a branch goes on from; 0 for what begins anew."""
    return study.recipes[trial.size].decay_begins(trial.horizon) if trial.trunk is not None else 0


def cost(study: Study, trial: Trial) -> float:
    """FLOPs that training a trial takes: of a branch only those after its trunk's."""
    return study.flops(trial) * own_steps(study, trial) / study.recipes[trial.size].steps(trial.horizon)


def trials_left(study: Study, entries: Sequence[Entry], due: Due) -> list[Trial]:
    """All that is still to run. What stands for choices that nobody knows yet is the design's own expectation."""
    if not due.choices:
        later = STAGES[STAGES.index(due.stage) + 1 :]
        return [*due.trials, *(trial for trial in expected(study) if trial.stage in later)]
    ended = {entry.key for entry in latest(entries).values() if entry.status != "failed"}
    never = {trial for trial, _ in due.lost}
    stages = main_trials(study, due.choices) + check_trials(study, due.choices)
    return [trial for trial in stages if trial not in never and study.key(trial) not in ended]


def flops_left(study: Study, entries: Sequence[Entry], due: Due) -> float:
    """FLOPs of :func:`trials_left`, those that running ones have done included."""
    return sum(cost(study, trial) for trial in trials_left(study, entries, due))


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last records of a file to which somebody is writing; lines that are not whole are left out."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # the first, cut by where reading began
            continue
    return [record for record in records if isinstance(record, dict)]
