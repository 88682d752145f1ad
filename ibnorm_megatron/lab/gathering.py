"""From the ledger to what is analysed: the ends of training of the main stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from .design import due, main_trials
from .ledger import latest
from .results import Observation
from .trials import Entry, Trial

if TYPE_CHECKING:
    from .study import Study


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


def observations(study: Study, entries: Sequence[Entry]) -> list[Observation]:
    """One observation for every run of the main stage that has ended, and for every one that never can.

    Tokens and FLOPs are those that were asked for, so that a run which diverged stands beside its pairs; it has no loss,
    and its reason. What is still to run, or to be tried again, is not there.

    Raises:
        RunFailure: the design cannot go on.
    """
    so_far = due(study, entries)
    if not so_far.choices:
        return []
    known, lost, open_ = latest(entries), dict(so_far.lost), set(so_far.trials)
    found = []
    for trial in main_trials(study, so_far.choices):
        entry = known.get(study.key(trial))
        if trial not in open_ and (entry is not None or trial in lost):
            found.append(_observation(study, trial, entry, lost.get(trial, "")))
    return found


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
