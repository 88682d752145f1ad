"""``ibnorm lab status``: how a study stands."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "show how a study stands: trials by stage, what runs and where, failures with their reasons, choices, time left"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="a YAML file, such as configs/studies/small.yaml")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="those that the study is run with")


def execute(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from ...lab.status import print_standing, standing
    from ...lab.study import load_study

    study = load_study(arguments.study, arguments.overrides)
    print_standing(study, standing(study), Console(highlight=False))
