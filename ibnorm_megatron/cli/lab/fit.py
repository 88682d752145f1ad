"""``ibnorm lab fit``: the lab's analysis of results that were logged elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "analyze results that were logged elsewhere: a CSV file with columns size, tokens, loss, arm and seed"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table",
        type=Path,
        metavar="FILE.csv",
        help="a line for each end of training: size (parameters), tokens, loss (nats), arm, seed, and where they are known "
        "flops, seconds and size_name. With one arm, or without that column, only the loss surface is fit",
    )
    parser.add_argument("--baseline", metavar="ARM", help="what the others are compared with; the first arm by default")
    parser.add_argument("--control", metavar="ARM", help="the arm that is the baseline by another code path")
    parser.add_argument(
        "--equivalence",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share of compute below which a difference is called none (default 0.01)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything that was found there")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write DIR/report/index.html, its pictures and the numbers")


def execute(arguments: argparse.Namespace) -> None:
    from ...errors import Problem, UserError
    from ...lab import report
    from ...lab.analysis import analyze
    from ...lab.csv_results import read_results
    from ...lab.tables import print_analysis, write_analysis

    if not 0 < arguments.equivalence < 1:
        why = "it is a share of compute, above 0 and below 1"
        raise UserError(Problem("--equivalence", f"{arguments.equivalence:g}", why, "give one such as 0.01"))
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(
            Problem("--json", str(arguments.json), "its folder does not exist", "make the folder, or give another path")
        )
    if arguments.json and arguments.json.is_dir():
        raise UserError(Problem("--json", str(arguments.json), "it is a folder", "give the name of a file"))
    observations = read_results(arguments.table)
    analysis = analyze(
        observations,
        baseline=observations[0].arm if arguments.baseline is None else arguments.baseline,
        control=arguments.control,
        equivalence=arguments.equivalence,
    )
    print_analysis(analysis)
    if arguments.json:
        try:
            write_analysis(analysis, arguments.json)
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(Problem("--json", str(arguments.json), why, "give another path")) from None
    if arguments.report:
        print(f"report: {report.write(analysis, None, [], None, arguments.report)}")
