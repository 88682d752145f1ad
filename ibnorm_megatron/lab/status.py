"""How a study stands, by what lies in its folder. Only reads, so it may be asked while the study runs, from anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ..errors import RunFailure
from .design import due
from .gathering import current
from .ledger import Ledger, latest
from .live import duration, row
from .locks import Holder, holder
from .matching import Matching, check
from .progress import STAGES, Running, cost, flops_left, running, trials_left
from .trials import Entry, Status, Trial

if TYPE_CHECKING:
    from .design import Due
    from .study import Study


@dataclass(frozen=True)
class Standing:
    """How a study stands.

    Attributes:
        entries: of the study as its file is now.
        due: what is to run, None where the design cannot go on; ``stuck`` says why then.
        running: runs that are being trained now, and by whom.
        seconds_left: of all that is left, with as many runs at a time as now; NaN where nothing is known.
        torn: the ledger's last line was cut off.
    """

    entries: Sequence[Entry]
    due: Due | None
    stuck: str
    running: tuple[tuple[Running, Holder], ...]
    seconds_left: float
    matching: Matching
    torn: bool


def standing(study: Study) -> Standing:
    """Read how a study stands.

    Raises:
        UserError: its ledger cannot be read.
    """
    ledger = Ledger(study.folder)
    entries = current(study, ledger.read())
    stuck, now = "", None
    try:
        now = due(study, entries)
    except RunFailure as failure:
        stuck = str(failure)
    runs = tuple(_running(study, now)) if now else ()
    return Standing(entries, now, stuck, runs, _seconds_left(study, entries, now, len(runs)), check(entries), ledger.torn)


def _running(study: Study, now: Due) -> Iterator[tuple[Running, Holder]]:
    for trial in now.trials:
        if who := holder(study.folder, study.key(trial)):
            yield running(study, trial), who


def _seconds_left(study: Study, entries: Sequence[Entry], now: Due | None, at_once: int) -> float:
    """By the seconds that a FLOP took in the runs that have ended, over all that is left, with so many side by side."""
    ended = [entry for entry in latest(entries).values() if entry.status == "complete" and entry.found.get("seconds")]
    spent = sum(cost(study, entry.trial) for entry in ended)
    if now is None or not spent:
        return math.nan
    rate = sum(float(entry.found["seconds"]) for entry in ended) / spent
    return flops_left(study, entries, now) * rate / max(1, at_once)


def print_standing(study: Study, found: Standing, console: Console) -> None:
    """Trials by stage, what runs, what failed and why, and what was chosen."""
    console.print(_stages(study, found))
    if found.running:
        console.print(_runs(found.running))
    for entry in latest(found.entries).values():
        if entry.status != "complete":
            _say(console, f"{entry.status} {study.name(entry.trial)}: {entry.reason}")
    if found.due is not None:
        for trial, why in found.due.lost:
            _say(console, f"never to be had {study.name(trial)}: {why}")
        if found.due.choices:
            console.print(_choices(found.due))
    for problem in found.matching.problems:
        _say(console, f"not matched: {problem}")
    for warning in found.matching.warnings:
        _say(console, f"warning: {warning}")
    if found.torn:
        _say(console, "warning: the ledger's last line was cut off; the next `ibnorm lab run` records its run again")
    _say(console, _headline(study, found))


def _headline(study: Study, found: Standing) -> str:
    if found.due is None:
        return found.stuck
    if found.due.finished:
        return f"{study.config.name} is finished"
    left = duration(found.seconds_left)
    who = "nobody runs it" if not found.running else f"{len(found.running)} running"
    return f"{study.config.name}: {who}, {f'about {left} left with as many at a time' if left else 'time left unknown'}"


def _stages(study: Study, found: Standing) -> Table:
    """A line for each stage: how its trials stand, of how many that are known of."""
    table = Table(title=f"{study.config.name}, in {study.folder}", title_justify="left")
    table.add_column("stage")
    statuses: tuple[Status, ...] = ("complete", "diverged", "failed")
    for column in (*statuses, "running", "left"):
        table.add_column(column, justify="right")
    names = {run.name for run, _ in found.running}
    open_ = _open(study, found)
    for stage in STAGES:
        ended = [entry.status for entry in latest(found.entries).values() if entry.trial.stage == stage]
        left = [trial for trial in open_ if trial.stage == stage]
        busy = sum(study.name(trial) in names for trial in left)
        numbers = [*(ended.count(status) for status in statuses), busy, len(left) - busy]
        if any(numbers):
            table.add_row(stage, *(str(number) if number else "" for number in numbers))
    return table


def _open(study: Study, found: Standing) -> list[Trial]:
    """Every trial that is still to run, as far as it is known or expected; none where the design cannot go on."""
    return trials_left(study, found.entries, found.due) if found.due is not None else []


def _runs(runs: Iterable[tuple[Running, Holder]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("running")
    for column in ("step", "loss", "tokens/s", "left"):
        table.add_column(column, justify="right")
    table.add_column("by")
    for run, who in runs:
        table.add_row(*row(run), f"{who.host}, process {who.process}, since {who.since}")
    return table


def _choices(now: Due) -> Table:
    """What each arm was tuned to, and where its best is on the grid."""
    table = Table(box=None, pad_edge=False)
    table.add_column("arm")
    for column in ("learning rate", "lambda", "tuning loss", "trials"):
        table.add_column(column, justify="right")
    for arm, choice in now.choices.items():
        best = min((tried.loss for tried in choice.tried), default=math.nan)
        strength = "" if choice.strength is None else f"{choice.strength:g}"
        shown = "" if math.isnan(best) else f"{best:.4f}"
        trials = sum(len(tried.losses) for tried in choice.tried)
        table.add_row(arm, f"{choice.learning_rate:g}", strength, shown, str(trials))
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
