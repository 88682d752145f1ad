"""The ``ibnorm`` command. Every subcommand is a module here with ``HELP``, ``configure`` and ``execute``; it imports what it
needs when it runs, so that ``ibnorm --help`` imports next to nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from .. import __version__
from ..errors import Problem, UserError, run_command

#: Subcommand -> module of this package, in the order that --help shows.
COMMANDS = {
    "prepare": "prepare",
    "data": "data",
    "train": "train",
    "dry-run": "dry_run",
    "launch": "launch",
    "checkpoint": "checkpoint",
    "verify": "verify",
    "overhead": "overhead",
    "estimate": "estimate",
    "lab": "lab",
    "compare": "compare",
    "analyze": "analyze",
    "telemetry": "telemetry",
    "check-norm": "check_norm",
    "doctor": "doctor",
}


class _Parser(argparse.ArgumentParser):
    """A parser that says what it does not understand as everything else says it, without the usage in front."""

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem(f"the command line of {self.prog}", "not understood", message, f"see: {self.prog} --help"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a check that failed, or 2 for what the user can mend."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int | None:
    parser = _Parser(prog="ibnorm", description="Pretrain language models with IBNorm, and compare norms honestly.")
    parser.add_argument("--version", action="version", version=f"ibnorm_megatron {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {name: import_module(f"{__name__}.{module}") for name, module in COMMANDS.items()}
    for name, module in modules.items():
        module.configure(subparsers.add_parser(name, help=module.HELP, description=module.HELP))
    parsed, rest = parser.parse_known_args(arguments)
    if rest and hasattr(parsed, "overrides") and all("=" in argument for argument in rest):
        parsed.overrides += rest  # those after an option: argparse takes one run of positional arguments only
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return modules[parsed.command].execute(parsed)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that reads a config."""
    parser.add_argument("config", help="a YAML file, such as configs/quickstart.yaml")
    parser.add_argument("overrides", nargs="*", metavar="room.field=value", help="such as model.norm=ibnorm_tanh")
