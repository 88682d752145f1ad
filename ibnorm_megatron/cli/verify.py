"""``ibnorm verify``: does every layout train the model that one process trains?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import add_config_arguments

if TYPE_CHECKING:
    from ..verify import Row

HELP = "compare a config's model in many layouts with one process: loss, every gradient, every weight"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--layouts", metavar="A,B", help="such as tp2-sp,dp2-zero3-acc2 or own, the config's; by default 27 of them"
    )
    parser.add_argument("--full", action="store_true", help="leave the model and its sequences as large as they are")
    parser.add_argument("--steps", type=int, default=3, metavar="K", help="optimizer steps to compare, 3 by default")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds until a layout counts as hanging")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every number; replaces an earlier report")


def execute(arguments: argparse.Namespace) -> int:
    from ..errors import Problem, raise_if_any
    from ..printing import wide_console
    from ..progress import Progress
    from ..quiet import quiet
    from ..reports import check_json_path
    from ..verify import DEFAULT_LAYOUTS, Options, verify
    from ..verify.report import write_report

    wrong = []
    if not 1 <= arguments.steps <= 100:
        wrong.append(Problem("--steps", str(arguments.steps), "bounds are for 1 to 100 steps", "give such a number"))
    if not 1 <= arguments.timeout <= 86_400:
        wrong.append(Problem("--timeout", str(arguments.timeout), "it is no sensible time", "give 1 to 86400 seconds"))
    names = tuple(name.strip() for name in arguments.layouts.split(",")) if arguments.layouts is not None else None
    raise_if_any(wrong)
    if arguments.json:
        check_json_path(arguments.json, "verify")
    quiet()
    options = Options(names, arguments.steps, arguments.full, arguments.timeout)
    with Progress("verifying", len(names or DEFAULT_LAYOUTS), unit="layouts") as progress:

        def show(row: Row) -> None:
            progress.advance(1, row.name)
            if not row.kept:
                progress.print(f"{row.name} is BROKEN")

        report = verify(arguments.config, arguments.overrides, options, show)
    console = wide_console()
    for note in report.notes:
        console.print(note, markup=False)
    console.print(report.table())
    broken = sum(not row.kept for row in report.rows)
    of = f"of {len(report.rows)} layouts, in {report.seconds:.0f} s"
    console.print(f"{broken} broken {of}" if broken else f"everything is kept in all {of}")
    if arguments.json:
        write_report(arguments.json, report)
        console.print(f"every number is in {arguments.json}", markup=False)
    return report.exit_code
