"""From the ledger to what is analysed: the ends of training of the main stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .ledger import latest
from .results import Observation
from .trials import Entry, Trial

if TYPE_CHECKING:
    from .study import Study


def observations(study: Study, entries: Sequence[Entry]) -> list[Observation]:
    """One observation for every main run that has ended, and for every branch that cannot be because its trunk failed.

    Tokens and FLOPs are those that were asked for, so that a run which diverged stands beside its pairs. A failed run is
    one without a loss: it is in the ledger, so it is here.
    """
    known = [entry for entry in latest(entries).values() if entry.trial.stage == "main"]
    trials = {entry.trial for entry in known}
    found = [_observation(study, entry.trial, entry) for entry in known]
    for entry in known:
        if entry.status != "complete":
            for horizon in entry.trial.branches:
                branch = replace(entry.trial, horizon=horizon, branches=(), trunk=entry.trial.horizon)
                if branch not in trials:
                    found.append(_observation(study, branch, entry))
    return found


def _observation(study: Study, trial: Trial, entry: Entry) -> Observation:
    """An end of training, as its own entry tells of it or, where it has none, its trunk's."""
    train, own = study.run_config(trial).train, entry.trial == trial
    complete = own and entry.status == "complete"
    reason = f"{entry.status}: {entry.reason}" if own else f"the run that it goes on from {entry.status}: {entry.reason}"
    return Observation(
        arm=trial.arm,
        size=trial.size,
        seed=trial.seed,
        parameters=study.parameters(trial.size),
        tokens=train.steps * train.tokens_per_step(),
        flops=study.flops(trial),
        loss=entry.loss if complete and entry.loss is not None else math.nan,
        seconds=entry.seconds if complete and entry.seconds is not None else math.nan,
        cluster=f"{trial.arm} {trial.size} seed {trial.seed}",
        run=entry.folder,
        failure="" if complete else reason,
    )
