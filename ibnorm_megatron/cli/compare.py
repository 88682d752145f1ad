"""``ibnorm compare``: finished runs that differ in their norm, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "compare finished runs that differ in nothing but their norm: a table, and a picture of the curves"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the loss curves there (.png, .svg or .pdf)")


def execute(arguments: argparse.Namespace) -> None:
    from ..lab.compare import draw_curves, load_arms, print_table
    from ..pictures import check_picture

    if arguments.picture:
        check_picture(arguments.picture)
    arms = load_arms(arguments.runs)
    print_table(arms)
    if arguments.picture:
        draw_curves(arms, arguments.picture)
        print(f"curves: {arguments.picture}")
