"""``ibnorm lab plan``: every run of a study, what it takes, and how small a gain it would find; starts nothing of it."""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ...printing import table as new_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from ...errors import Problem
    from ...lab.costs import Cost
    from ...lab.plan import Plan
    from ...lab.study import Study

HELP = "show a study's runs, rules and costs, and how small a gain it would find; refuses what is unfair or over its budget"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="a YAML file, such as configs/studies/small.yaml")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="of the study, such as seeds=[1,2,3]")
    parser.add_argument("--at-once", type=int, metavar="N", help="runs side by side; the study's launcher.at_once by default")
    parser.add_argument("--no-calibrate", action="store_true", help="do not measure a few steps; go by --speed")
    parser.add_argument("--speed", type=float, metavar="FLOP/S", help="of one run, with --no-calibrate; a guess by default")
    parser.add_argument(
        "--seed-sd", type=float, metavar="NATS", help="how much a run's loss varies over seeds; 0.005 by default"
    )
    parser.add_argument("--runs", action="store_true", help="list every run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there")


def execute(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from ...errors import Problem, UserError, raise_if_any
    from ...files import write_json
    from ...lab.costs import STATED_SPEED, calibrate, stated_speeds
    from ...lab.plan import make_plan
    from ...lab.power import SEED_SD
    from ...lab.study import load_study

    raise_if_any(_problems(arguments))
    study = load_study(arguments.study, arguments.overrides)
    at_once = arguments.at_once or study.config.launcher.at_once
    console = Console(highlight=False)
    speed = arguments.speed or STATED_SPEED
    if arguments.no_calibrate:
        speeds, how = stated_speeds(study, speed), f"times by a stated {speed:.3g} FLOP/s a run, not measured"
    else:
        with console.status("measuring a few steps of every size and arm"):
            speeds, how = calibrate(study, at_once), f"times by a few measured steps, {at_once} runs at once"
    plan = make_plan(study, speeds, at_once, arguments.seed_sd or SEED_SD)
    _print(console, plan, how, runs=arguments.runs)
    if arguments.json:
        try:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.json, {**plan.to_dict(), "times": how})
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            raise UserError(Problem("--json", str(arguments.json), why, "give another path")) from None
        console.print(f"plan: {arguments.json}", markup=False)
    raise_if_any(plan.over_budget())


def _problems(arguments: argparse.Namespace) -> Iterator[Problem]:
    from ...errors import Problem

    for name in ("at_once", "speed", "seed_sd"):
        if (value := getattr(arguments, name)) is not None and not 0 < value < float("inf"):
            option = f"--{name.replace('_', '-')}"
            yield Problem(option, f"{value:g}", "nothing can be planned with it", "give a number above 0")
    if arguments.speed is not None and not arguments.no_calibrate:
        why = "steps are measured, and nothing goes by it"
        yield Problem("--speed", f"{arguments.speed:g}", why, "add --no-calibrate or leave it out")
    if arguments.json is not None and arguments.json.is_dir():
        yield Problem("--json", str(arguments.json), "it is a folder", "give the name of a file")


def _print(console: Console, plan: Plan, how: str, *, runs: bool) -> None:
    for name, sentence in plan.study.overridden:
        console.print(f"unfair, and allowed ({name}): {sentence}", style="bold red", markup=False)
    console.print(_arms(plan.study))
    console.print(_stages(plan, how))
    for size, sentences in plan.derivations().items():
        console.print(f"{size}: N = {plan.study.parameters(size):,}", style="bold", markup=False)
        for sentence in sentences:
            console.print(f"  {sentence}", markup=False, soft_wrap=True)
    if runs:
        console.print(_runs(plan))
    for note in plan.notes:
        console.print(note, markup=False, soft_wrap=True)
    console.print(plan.summary(), style="bold", markup=False, soft_wrap=True)


def _arms(study: Study) -> Table:
    from ...lab.fairness import further_trials

    table = new_table("arms", "arm", "norm", "trials after the grid", "role", no_wrap=True)
    counts = further_trials(study.config)
    for name, arm in study.config.arms.items():
        role = {study.config.baseline: "baseline", study.config.control: "control"}.get(name, "")
        lambdas = f" (lambda {', '.join(f'{strength:g}' for strength in arm.lambdas)})" if arm.lambdas else ""
        table.add_row(name, arm.norm.label(), f"{counts[name]}{lambdas}", role)
    return table


def _stages(plan: Plan, how: str) -> Table:
    from ...lab.costs import makespan
    from ...lab.plan import shown_seconds

    table = new_table("runs", "stage", "size", "tok/N", "runs", "steps", "tokens", "FLOPs", "time", "memory", no_wrap=True)
    table.caption = f"{how}; of a branch, what comes after its trunk; tok/N: tokens a parameter"
    ordered = sorted(plan.runs, key=lambda run: _row(plan, run.trial.stage, run.trial.size, run.trial.horizon))
    for (stage, size, horizon), group in groupby(ordered, key=lambda r: (r.trial.stage, r.trial.size, r.trial.horizon)):
        costs = [run.cost for run in group]
        seconds = makespan([each.seconds for each in costs], plan.at_once)
        table.add_row(stage, size, f"{horizon:g}", str(len(costs)), *_sums(costs, shown_seconds(seconds)))
    table.add_section()
    everything = [run.cost for run in plan.runs]
    table.add_row("total", "", "", str(len(plan.runs)), *_sums(everything, shown_seconds(plan.seconds)))
    return table


def _row(plan: Plan, stage: str, size: str, horizon: float) -> tuple[int, int, float]:
    return ("tune", "further", "main", "check").index(stage), list(plan.study.config.sizes).index(size), horizon


def _sums(costs: list[Cost], time: str) -> tuple[str, ...]:
    steps, tokens, flops = (sum(getattr(each, name) for each in costs) for name in ("steps", "tokens", "flops"))
    memory = max(each.memory for each in costs)
    return f"{steps:,}", f"{tokens / 1e6:,.1f}M", f"{flops:.1e}", time, f"{memory / 2**20:,.0f} MiB"


def _runs(plan: Plan) -> Table:
    table = new_table("every run", "run", "learning rate", "steps", "tokens", "FLOPs", "seconds", "MiB", no_wrap=True)
    for run in plan.runs:
        rate, cost = "tuned" if run.tuned else f"{run.trial.learning_rate:.4g}", run.cost
        figures = (
            f"{cost.steps:,}",
            f"{cost.tokens:,}",
            f"{cost.flops:.2e}",
            f"{cost.seconds:.0f}",
            f"{cost.memory / 2**20:.0f}",
        )
        table.add_row(run.name, rate, *figures)
    return table
