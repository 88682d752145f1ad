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
    from ...errors import Problem, UserError
    from ...lab import report
    from ...lab.standpoint import standpoint
    from ...lab.study import load_study

    study = load_study(arguments.study, arguments.overrides)
    found = standpoint(study)
    if not found.entries:
        why = f"no run of it as it stands now is in {study.folder}"
        raise UserError(Problem("the study", str(arguments.study), why, f"run it first: ibnorm lab run {arguments.study}"))
    written = report.write(found.analysis, study, found.entries, found.due, arguments.out or study.folder, found.notes)
    print(f"report: {written}")
