"""``ibnorm overhead``: what do norms cost in this model, by formula and measured?"""

from __future__ import annotations

import argparse
from pathlib import Path

from . import add_config_arguments

HELP = "show what norms cost in a config's model: FLOPs, bytes, memory, time; by formula and measured in training steps"


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--norms",
        nargs="+",
        metavar="NORM",
        help="to compare with the config's own: names, or mappings such as '{kind: ibnorm_tanh, lambda: 2}'; by default "
        "layernorm rmsnorm ibnorm_identity ibnorm_log ibnorm_tanh",
    )
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of each model to time, 20 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every number; replaces an earlier report")


def execute(arguments: argparse.Namespace) -> int:
    from ..errors import Problem, raise_if_any
    from ..files import write_json
    from ..overhead import DEFAULT_NORMS, Options, overhead
    from ..overhead.run import split_norms
    from ..printing import wide_console
    from ..progress import Progress
    from ..quiet import quiet
    from ..reports import check_json_path

    if not 1 <= arguments.steps <= 10_000:
        raise_if_any([Problem("--steps", str(arguments.steps), "it is no sensible number of steps", "give 1 to 10000")])
    if arguments.json:
        check_json_path(arguments.json, "overhead")
    norms, overrides = split_norms(arguments.norms or DEFAULT_NORMS)
    quiet()
    progress: Progress | None = None

    def planned(steps: int) -> None:
        nonlocal progress
        progress = Progress("measuring", steps, unit="steps")
        progress.start()

    def done() -> None:
        assert progress is not None
        progress.advance(1)

    try:
        options = Options(tuple(norms), arguments.steps)
        report = overhead(arguments.config, [*arguments.overrides, *overrides], options, planned, done)
    finally:
        if progress is not None:
            progress.stop()
    console = wide_console()
    console.print(report.table())
    for note in report.notes():
        console.print(note, markup=False)
    if arguments.json:
        write_json(arguments.json, report.to_dict())
        console.print(f"every number is in {arguments.json}", markup=False)
    return 0
