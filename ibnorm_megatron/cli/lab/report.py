"""``ibnorm lab report``: what a study has shown so far, as one page."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a study's report: one HTML page, its pictures, and the numbers"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="room.field=value", help="such as seeds=[1,2], as the study was run with"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/report instead of report/ in the study's folder")


def execute(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from ...errors import Problem, UserError
    from ...lab import report
    from ...lab.analysis import analyze
    from ...lab.design import due
    from ...lab.gathering import current, gather
    from ...lab.ledger import Ledger
    from ...lab.matching import check
    from ...lab.study import load_study

    study = load_study(arguments.study, arguments.overrides)
    entries = current(study, Ledger(study.folder).read())
    found = gather(study, entries)
    if not found.observations:
        why = "its ledger has no run of the main stage yet"
        raise UserError(Problem("the study", str(arguments.study), why, f"run it first: ibnorm lab run {arguments.study}"))
    config = study.config
    analysis = analyze(
        found.observations,
        baseline=config.baseline,
        control=config.control,
        equivalence=config.equivalence,
        pending=found.pending,
    )
    matching = check(entries)
    warnings = (*map(str, matching.problems), *matching.warnings, *analysis.warnings)
    analysis = replace(analysis, warnings=warnings)
    print(f"report: {report.write(analysis, study, entries, due(study, entries), arguments.out or study.folder)}")
