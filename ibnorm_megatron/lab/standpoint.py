"""A study as its report shows it: finished, under way or stuck, with all that a reader has to know before the verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import RunFailure, UserError
from .analysis import analyze
from .auditing import Audit, audit
from .design import due
from .gathering import Gathered, current, gather
from .ledger import Ledger
from .matching import check
from .notes import Notes
from .results import Analysis
from .trials import Entry

if TYPE_CHECKING:
    from .design import Due
    from .study import Study


@dataclass(frozen=True)
class Standpoint:
    """What there is to report.

    Attributes:
        analysis: of what can be compared now; without verdicts where that is nothing.
        entries: of the study as its file is now.
        due: what is left to run, None where the design cannot go on.
    """

    analysis: Analysis
    entries: tuple[Entry, ...]
    due: Due | None
    notes: Notes


def standpoint(study: Study) -> Standpoint:
    """Read a study's ledger and analyse what it holds.

    Raises:
        UserError: the ledger cannot be read.
    """
    entries = tuple(current(study, Ledger(study.folder).read()))
    stuck, now = "", None
    try:
        now = due(study, entries)
    except RunFailure as failure:
        stuck = str(failure.problem)
    analysis = _analysed(study, gather(study, entries) if now else Gathered((), ()))
    matching, read = check(entries), audit(study, entries)
    analysis = replace(analysis, warnings=(*matching.warnings, *analysis.warnings))
    unmatched = tuple(str(problem) for problem in (*matching.problems, *read.problems))
    return Standpoint(analysis, entries, now, Notes(unmatched, stuck, _records(read)))


def _records(read: Audit) -> str:
    """How many runs lead to a folder that says the same."""
    unlike = len({problem.where.rpartition(" of ")[2] for problem in read.problems})
    said = f"{unlike} of them say something else than the ledger" if unlike else "say what the ledger says"
    return f"{read.there:,} of {read.runs:,} runs' folders are there with all their records, and {said}"


def _analysed(study: Study, found: Gathered) -> Analysis:
    """What ``found`` says; why nothing, where there are runs of which nothing can be said."""
    config = study.config
    warnings: tuple[str, ...] = ()
    if found.observations:
        try:
            return analyze(
                found.observations,
                baseline=config.baseline,
                control=config.control,
                equivalence=config.equivalence,
                pending=found.pending,
            )
        except UserError as error:
            warnings = tuple(map(str, error.problems))
    seen = found.observations, (), None, (), (), warnings, found.pending
    return Analysis(config.baseline, config.control, config.equivalence, *seen)
