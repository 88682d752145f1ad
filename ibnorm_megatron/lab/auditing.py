"""Whether the ledger says of every run what the run's own folder says, for a report whose numbers lead there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Problem, UserError
from ..train.run_folder import RunFolder, differences
from .ledger import latest
from .matching import facts
from .trials import Entry

if TYPE_CHECKING:
    from .study import Study

_MEND = "restore the folder; or take the run's line out of the ledger and remove the folder, so that it is trained again"


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        runs: that have a result.
        there: of these, the ones whose folders are there with all their records.
        problems: where a folder says something else than the ledger.
    """

    runs: int
    there: int
    problems: tuple[Problem, ...]


def audit(study: Study, entries: Sequence[Entry]) -> Audit:
    """Read the records of every run with a result, and compare them with its line in the ledger."""
    results = [entry for entry in latest(entries).values() if entry.status != "failed"]
    there, problems = 0, []
    for entry in results:
        folder = RunFolder(study.folder / entry.folder)
        try:
            config, card, summary = folder.read_config(), folder.read_card(), folder.read_summary() or {}
            recorded = facts(config, card, float(card["tokens"] * study.flops_per_token(entry.trial.size)))
        except (UserError, KeyError, TypeError, AttributeError):  # moved, tidied up, or damaged
            continue
        there += 1
        problems += _otherwise(entry, summary, recorded)
    return Audit(len(results), there, tuple(problems))


def _otherwise(entry: Entry, summary: dict[str, Any], recorded: dict[str, Any]) -> Iterator[Problem]:
    """In what a run's records are not what its entry holds."""
    loss = summary.get("val_loss") if entry.status == "complete" else None
    ours: dict[str, Any] = {"loss": entry.loss, "tokens": entry.tokens, **_of_result(entry.matching)}
    theirs = {"loss": loss, "tokens": summary.get("tokens", 0), **_of_result(recorded)}
    for field, said, found in differences(ours, theirs):
        yield Problem(f"{field} of {entry.folder}", repr(found), f"the ledger has {said!r}", _MEND)


def _of_result(matching: dict[str, Any]) -> dict[str, Any]:
    """Without what is added each time that a run goes on, and what changes no result."""
    return {name: value for name, value in matching.items() if name not in ("code", "machine", "config")}
