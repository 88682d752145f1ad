"""``ibnorm doctor``: will runs work on this machine, and if not, what is to be done?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "examine this machine: versions, GPUs, collectives, ports, disk, compilers, kernels; with mends"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", type=Path, default=Path("."), metavar="DIR", help="folder where runs are to be; the current one by default"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write everything as JSON; replaces an earlier report; - is stdout, alone"
    )


def execute(arguments: argparse.Namespace) -> int:
    from ..doctor import examine
    from ..files import write_json
    from ..printing import wide_console
    from ..reports import check_json_path

    alone = arguments.json == "-"
    if arguments.json is not None and not alone:
        check_json_path(Path(arguments.json), "doctor")
    report = examine(arguments.dir.expanduser())
    if alone:
        json.dump(report.to_dict(), sys.stdout, indent=2, ensure_ascii=False)
        print()
        return report.exit_code
    console = wide_console()
    console.print(report.table())
    console.print(report.verdict(), markup=False)
    if arguments.json is not None:
        write_json(Path(arguments.json), report.to_dict())
        console.print(f"everything is in {arguments.json}", markup=False)
    return report.exit_code
