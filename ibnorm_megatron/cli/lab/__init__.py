"""``ibnorm lab``: a comparison of norms, from its design to its report. Every action is a module here with ``HELP``,
``configure`` and ``execute``."""

from __future__ import annotations

import argparse
from importlib import import_module

HELP = "compare norms: plan a study, run it, report what it shows, or fit results that were logged elsewhere"

#: Action -> module of this package, in the order that --help shows.
ACTIONS: dict[str, str] = {
    "plan": "plan",
    "run": "run",
    "status": "status",
    "report": "report",
    "fit": "fit",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, module in ACTIONS.items():
        action = import_module(f"{__name__}.{module}")
        action.configure(actions.add_parser(name, help=action.HELP, description=action.HELP))


def execute(arguments: argparse.Namespace) -> int | None:
    return import_module(f"{__name__}.{ACTIONS[arguments.action]}").execute(arguments)
