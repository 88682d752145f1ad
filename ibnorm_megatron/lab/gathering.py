"""From the ledger to what is analysed: the ends of training of the main stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from .design import due, main_trials
from .ledger import latest
from .results import Observation
from .trials import Entry, Trial

if TYPE_CHECKING:
    from .study import Study


@dataclass(frozen=True)
class Gathered:
    """What the main stage has shown so far.

    Attributes:
        observations: runs that have ended, and those that never can: these and the diverged have no loss, and a reason.
        pending: runs that are still to be trained, or to be tried again; without a loss, for no fault of the arm's.
    """

    observations: tuple[Observation, ...]
    pending: tuple[Observation, ...]


def current(study: Study, entries: Sequence[Entry]) -> list[Entry]:
    """The entries that are of the study as its file is now; others are of what it was before somebody changed it."""
    return [entry for entry in entries if _is_of(study, entry)]


def _is_of(study: Study, entry: Entry) -> bool:
    trial, horizons = entry.trial, {*study.config.horizons, study.tuned_horizon}
    known = (trial.arm, trial.size, trial.strength) in study.configs and trial.size in study.recipes
    if not known or trial.horizon not in horizons or trial.trunk not in {None, *horizons}:
        return False
    try:
        return study.key(trial) == entry.key
    except ValidationError:  # of a setting that no run of it can have
        return False


def gather(study: Study, entries: Sequence[Entry]) -> Gathered:
    """Every trial of the main stage, as one that has ended or one that is pending; nothing before tuning is over.

    Tokens and FLOPs are those that were asked for, so that a run which diverged stands beside its pairs.

    Raises:
        RunFailure: the design cannot go on.
    """
    so_far = due(study, entries)
    if not so_far.choices:
        return Gathered((), ())
    known, lost = latest(entries), dict(so_far.lost)
    ended: list[Observation] = []
    pending: list[Observation] = []
    for trial in main_trials(study, so_far.choices):
        entry = known.get(study.key(trial))
        # One that failed and is not lost is to be tried again.
        if trial in lost or (entry is not None and entry.status != "failed"):
            ended.append(_observation(study, trial, entry, lost.get(trial, "")))
        else:
            pending.append(_observation(study, trial, None, "it is not trained yet"))
    return Gathered(tuple(ended), tuple(pending))


def _observation(study: Study, trial: Trial, entry: Entry | None, why: str) -> Observation:
    """An end of training; ``why`` says what there is to say of one that has no loss, and of one without an entry."""
    complete = entry is not None and entry.status == "complete"
    failure = why if entry is None else "" if complete else f"{entry.status}: {entry.reason}"
    values = (entry.loss, entry.seconds) if entry is not None and complete else (None, None)
    loss, seconds = (math.nan if value is None else value for value in values)
    return Observation(
        arm=trial.arm,
        size=trial.size,
        seed=trial.seed,
        parameters=study.parameters(trial.size),
        tokens=study.tokens(trial),
        flops=study.flops(trial),
        loss=loss,
        seconds=seconds,
        cluster=f"{trial.arm} {trial.size} seed {trial.seed}",
        run=entry.folder if entry is not None else "",
        failure=failure,
    )
