"""``ibnorm telemetry``: what the norms of a run see, and how it has gone."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "show what the norms of a run see and do: a table of the last values, and heatmaps over the run"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder; the run may still go on")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw heatmaps there (.png, .svg or .pdf)")
    parser.add_argument("--figures", nargs="+", metavar="NAME", help="what to draw, such as crest slope gamma_std")


def execute(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from ..errors import Problem, UserError
    from ..pictures import check_picture, save_picture
    from ..telemetry.series import load_series
    from ..telemetry.table import print_table

    if arguments.picture:
        check_picture(arguments.picture)
    elif arguments.figures:
        named = " ".join(arguments.figures)
        raise UserError(Problem("--figures", named, "it says what to draw, and nothing is drawn", "add --picture FILE"))
    series = load_series(arguments.run)
    series.check(arguments.figures or ())
    print_table(series, Console(highlight=False))
    if arguments.picture:
        from ..telemetry.heatmap import SHOWN, draw

        save_picture(draw(series, arguments.figures or SHOWN), arguments.picture)
        print(f"heatmaps: {arguments.picture}")
