"""``ibnorm lab run``: train what a study still lacks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ...errors import Problem
    from ...lab.study import Study

HELP = "run a study, or go on with it: as often as wanted, and by several processes on one folder"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="a YAML file, such as configs/studies/small.yaml")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="of the study's own fields, such as seeds=[1,2,3]")
    parser.add_argument("--at-once", type=int, metavar="N", help="runs side by side; launcher.at_once by default")
    parser.add_argument("--task", type=int, metavar="I", help="which of --tasks processes on one folder this is, from 0")
    parser.add_argument("--tasks", type=int, metavar="N", help="how many there are; each begins with its own share")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try again what failed as often as launcher.attempts allows, after a mend"
    )


def execute(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from ...errors import raise_if_any
    from ...lab.gathering import current
    from ...lab.ledger import Ledger
    from ...lab.progress import counts
    from ...lab.runner import Share, run_study
    from ...lab.study import load_study

    raise_if_any(_problems(arguments))
    study = load_study(arguments.study, arguments.overrides)
    at_once = arguments.at_once or study.config.launcher.at_once
    console = Console(stderr=True)
    _announce(console, study, at_once)
    share = Share(arguments.task or 0, arguments.tasks or 1)
    run_study(study, at_once=at_once, share=share, retry_failed=arguments.retry_failed, console=console)
    found = counts(current(study, Ledger(study.folder).read()))
    said = ", ".join(f"{number} {status}" for status, number in found.items() if number)
    print(f"{study.config.name} is done: {said}; its report: ibnorm lab report {arguments.study}")


def _announce(console: Console, study: Study, at_once: int) -> None:
    """Say what the study is, as far as that is known without measuring anything.

    Raises:
        UserError: it takes more FLOPs than its budget. Hours are for the plan to judge, which measures.
    """
    from ...errors import raise_if_any
    from ...lab.costs import stated_speeds
    from ...lab.plan import make_plan

    plan = make_plan(study, stated_speeds(study), at_once)
    raise_if_any(problem for problem in plan.over_budget() if problem.where != "budget.hours")
    for name, sentence in study.overridden:
        console.print(f"unfair, and allowed ({name}): {sentence}", style="bold red", markup=False, soft_wrap=True)
    what = f"{study.config.name}: {len(plan.runs)} runs, {plan.flops:.3g} FLOPs, {at_once} at once; {plan.effect()}"
    console.print(what, markup=False, highlight=False, soft_wrap=True)


def _problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    """What of the numbers is none of a process."""
    from ...errors import Problem

    task, tasks = arguments.task, arguments.tasks
    if arguments.at_once is not None and arguments.at_once < 1:
        yield Problem("--at-once", str(arguments.at_once), "there is no such number of runs", "give 1 or more")
    if (task is None) != (tasks is None):
        given, other = ("--task", "--tasks") if tasks is None else ("--tasks", "--task")
        yield Problem(
            given, str(task if tasks is None else tasks), f"it means nothing without {other}", f"give {other} as well"
        )
    elif tasks is not None and not 0 <= task < tasks:
        yield Problem("--task", str(task), f"there is no such one of {tasks}", f"give one from 0 to {tasks - 1}")
