"""Hundreds of kills: runs that are killed at random, damaged, and started again have to end as if nothing had happened.

    OMP_NUM_THREADS=1 python -m benchmarks.kills --kills 200 --seed 1 --out benchmarks/results/kills

The harness is that of ``tests/killing``. The first run that comes out differently ends it, with all that happened to it.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet
from tests.killing.harness import Tale, Yard
from tests.killing.launches import Kill
from tests.killing.plans import CASES, Case, Meddler, Undisturbed, Vandal, random_kill

VOCABULARY = 512
HEADS = ["where the kill struck", "kills"]


@dataclass
class Sum:
    """What happened to all runs.

    Attributes:
        runs, starts, resumed: how many; starts that went on from a checkpoint.
        phases, cases, ways: kills, by what the rank was doing, by the run, and by what brought them about.
        damages: by their kind.
        seconds: of wall time.
    """

    runs: int = 0
    starts: int = 0
    resumed: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """All of them."""
        return self.phases.total()

    def add(self, case: Case, tale: Tale, damages: list[str]) -> None:
        """Count one run."""
        self.runs, self.starts, self.resumed = self.runs + 1, self.starts + tale.starts, self.resumed + tale.resumed
        self.damages.update(damages)
        for kill, where, _ in tale.kills:
            self.phases[where] += 1
            self.cases[case.name] += 1
            self.ways[_way(kill)] += 1


def _way(kill: Kill) -> str:
    what = {"time": "by the clock", "seen": "while something grew", "size": "in the middle of a file"}
    who = "all ranks" if kill.rank is None else "one rank"
    return f"{who}, {what.get(kill.how, 'before a call to the file system')}"


def _plan(chance: random.Random, peace: Undisturbed, sweep: list[int]) -> list[Kill]:
    """Two kills of the sweep over all calls of the first rank, which leaves out none, then random ones."""
    first = [Kill(0, "call", call=sweep.pop()) for _ in range(min(2, len(sweep)))] if len(peace.calls) == 1 else []
    return [*first, *(random_kill(chance, peace) for _ in range(5))]


def kill_runs(yard: Yard, kills: int, chance: random.Random) -> Sum:
    """Kill until so many kills have struck; every case in turn."""
    found, started = Sum(), time.monotonic()
    sweeps: dict[str, list[int]] = {}
    with Progress("kills", kills, unit="kills") as progress:
        while found.kills < kills:
            case = CASES[found.runs % len(CASES)]
            peace = yard.undisturbed(case)
            if not (sweep := sweeps.setdefault(case.name, [])):
                sweep += chance.sample(range(1, peace.calls[0] + 1), peace.calls[0])
            meddler = chance.choice([Meddler(), Vandal(chance)])
            before = found.kills
            tale = yard.story(case, _plan(chance, peace, sweep), chance.uniform(0.0, 0.3), meddler)
            found.add(case, tale, meddler.done if isinstance(meddler, Vandal) else [])
            progress.advance(found.kills - before, f"{found.runs} runs, all of them as if nothing had happened")
    found.seconds = time.monotonic() - started
    return found


def _lines(counter: Counter[str]) -> list[list[str]]:
    return [[name, str(number)] for name, number in counter.most_common()]


def _said(found: Sum) -> str:
    return (
        f"{found.kills} kills in {found.runs} runs, which took {found.starts} starts, of which {found.resumed} went on from a "
        f"checkpoint, each from the newest whole one; {found.damages.total()} checkpoints or pointers were damaged in between. "
        "Every run ended with the losses, gradient norms, evaluations, weights, optimizer state and random numbers of the "
        f"undisturbed run, bit for bit. {found.seconds:.0f} s of wall time."
    )


def write_page(found: Sum, path: Path) -> None:
    """The page: conditions, the sum, and who was killed where."""
    from .conditions import conditions, markdown_table  # which import torch: the process that forks ranks imports this file

    method = (
        "one tiny model a case, 12 steps, saved every 2 in the background; every start is killed once, by SIGKILL or in the "
        "middle of a write, and damaged before, if at all; tests/killing/harness.py says what is compared"
    )
    listed = "\n".join(f"* {name}: {value}" for name, value in conditions("benchmarks.kills", method).items())
    parts = [f"# Kills\n\n{listed}", _said(found), markdown_table(HEADS, _lines(found.phases))]
    parts += [markdown_table(["how", "kills"], _lines(found.ways)), markdown_table(["run", "kills"], _lines(found.cases))]
    parts += [markdown_table(["damage between two starts", "times"], _lines(found.damages))] if found.damages else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")


def _prepare(folder: Path) -> Path:
    from data_prep.prepare import Options, prepare
    from data_prep.recipe import make_recipe

    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [{"path": str(library / package)} for package in ("asyncio", "email", "json", "logging")]
    values = {"sources": sources, "tokenizer": {"vocab_size": VOCABULARY}, "validation_fraction": 0.1}
    prepare(Options(make_recipe(values), folder, workers=1))
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Kill, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills"), help="without the suffix")
    options = parser.parse_args(arguments)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        data = _prepare(Path(folder) / "data")
        with Yard(data, VOCABULARY, Path(folder) / "runs") as yard:
            found = kill_runs(yard, options.kills, random.Random(options.seed))  # noqa: S311
    table = Table(*HEADS, title=_said(found))
    for line in _lines(found.phases):
        table.add_row(*line)
    Console(width=120).print(table)
    write_page(found, options.out.with_suffix(".md"))


if __name__ == "__main__":
    main()
