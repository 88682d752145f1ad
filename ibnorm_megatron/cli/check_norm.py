"""``ibnorm check-norm``: run a norm through its promises and print a report."""

from __future__ import annotations

import argparse

HELP = "check a norm or compression of your own: bounds, gradients, precision, sharding"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("norm", metavar="NORM", help="a name, such as ibnorm_log, or a mapping: '{kind: ibnorm, lambda: 2}'")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="Python file that registers it")


def execute(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError
    from rich.console import Console
    from rich.table import Table

    from ..errors import Problem, UserError, raise_if_any
    from ..plugins import load_plugins

    raise_if_any(load_plugins(arguments.plugin))

    from ..norms.config import parse_norm
    from ..yaml12 import parse_yaml

    try:
        config = parse_norm(parse_yaml(arguments.norm))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ") for detail in error.errors()]
        raise UserError(Problem("the norm", repr(arguments.norm), ", and ".join(wrong), "change it")) from None
    except ValueError as error:
        why, _, mend = str(error).partition(": ")
        raise UserError(Problem("the norm", repr(arguments.norm), why, mend or "change it")) from None

    from ..checks import check_norm

    table = Table(title=f"checks of {config.label()}", title_justify="left")
    for column in ("", "what", "figure"):
        table.add_column(column)
    marks = {True: "[green]kept[/]", False: "[bold red]BROKEN[/]", None: "seen"}
    broken = 0
    for finding in check_norm(config, arguments.plugin):
        table.add_row(marks[finding.kept], finding.what, finding.figure)
        broken += finding.kept is False
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{broken} broken" if broken else "everything is kept")
    return 1 if broken else 0
