"""What telemetry costs a run: blocks of steps with one look into the norms and without, by turns in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.telemetry --out benchmarks/results/telemetry

A block is a few optimizer steps of Trainer under DeepSpeed ZeRO-1. With telemetry its first step also measures gradients by
part, looks into all norms afterwards, and writes the record. A round is a block of either kind; what a look costs is the
difference within a round, in steps, and the median over rounds is reported. A run pays it once an interval.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.parallel.cpu_compat import device
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.records import JsonLines
from ibnorm_megatron.train.callbacks.telemetry import Telemetry
from ibnorm_megatron.train.config import LogConfig
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.loop import Trainer
from ibnorm_megatron.train.norm_view import NormView
from ibnorm_megatron.train.run import build_engine
from ibnorm_megatron.train.run_folder import RunFolder

from .conditions import conditions, markdown_table
from .loader import MODELS, synthetic
from .timing import Samples, Task, clock_for, measure

HEADS = [
    "model",
    "norm",
    "compile",
    "tokens a step",
    "tokens looked at",
    "step ms",
    "look ms",
    "look in steps",
    "of a run",
]

#: The default of log.telemetry, for which the last column is.
INTERVAL: int = LogConfig.model_fields["telemetry"].default

WITH, WITHOUT = "with", "without"
WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """One model, with a norm everywhere, eager or compiled."""

    model: str
    norm: str
    compiled: str

    def __str__(self) -> str:
        return f"{self.model}, {self.norm}, compile {self.compiled}"

    def config(self, folder: Path) -> Config:
        """Its config, with data made for it."""
        data, run = folder / f"{self.model}-data", folder / f"{self.model}-{self.norm}-{self.compiled}"
        overrides = [*MODELS[self.model], "train.steps=100000", f"run.dir={run}", f"data.path={data}", "log.console=false"]
        overrides += [f"model.norm={self.norm}", f"model.compile={self.compiled}"]
        config = load_config(f"configs/{self.model}.yaml", overrides)
        if not data.exists():
            synthetic(data, 4000, 2_000_000, config.model.vocab_size, hole=False)
        return config


@contextmanager
def built(config: Config) -> Iterator[tuple[Trainer, NormView]]:
    """A run of one process between its steps, and a view of its norms."""
    train, folder = config.train, RunFolder(config.run.dir)
    with model_parallel(config.parallel, train.seed) as groups, folder.claim(config.to_yaml()):
        prepared = read_prepared(config.data)
        training, validation = (
            SequenceDataset(prepared, split, train.sequence_length, 0, folder.index_cache) for split in ("train", "validation")
        )
        sizes = {"global_batch_size": train.global_batch_size, "micro_batch_size": train.micro_batch(1)}
        loader = Loader(training, **sizes, data_rank=0, data_size=1, ahead=1)
        engine = build_engine(config, groups)
        try:
            yield (
                Trainer(config, prepared, groups, engine, loader, folder, [], Guard(config.guard)),
                NormView(validation, train),
            )
        finally:
            loader.close()
            engine.close()


def tasks(trainer: Trainer, view: NormView, steps: int) -> dict[str, Task]:
    """A block of either kind."""
    telemetry = Telemetry(1, view)

    def block(looks: bool) -> None:
        for number in range(steps):
            trainer.callbacks = [JsonLines(), telemetry] if looks and number == 0 else []
            trainer._step()
            for callback in trainer.callbacks:
                callback.after_step(trainer)

    def task(looks: bool) -> Task:
        return lambda clock: {"block": clock(lambda: block(looks))[1]}

    return {WITHOUT: task(False), WITH: task(True)}


def cells(config: Config, samples: Samples, steps: int, tokens: int) -> list[str]:
    """A row's numbers: medians over rounds."""
    pairs = list(zip(samples[WITH]["block"], samples[WITHOUT]["block"], strict=True))
    step = statistics.median(without / steps for _, without in pairs)
    look = statistics.median(looking - without for looking, without in pairs)
    in_steps = statistics.median((looking - without) / (without / steps) for looking, without in pairs)
    numbers = [f"{1e3 * step:.1f}", f"{1e3 * look:.1f}", f"{in_steps:.2f}", f"{100 * in_steps / INTERVAL:.2f} %"]
    return [config.model.norm_label(), config.model.compile, str(config.train.tokens_per_step()), str(tokens), *numbers]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.telemetry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), default=["tiny_llama", "quickstart"])
    parser.add_argument("--norms", nargs="*", default=["rmsnorm", "ibnorm_log"])
    parser.add_argument("--compile", nargs="*", choices=["none", "layers"], default=["none", "layers"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--out", type=Path, help="write OUT.md")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    quiet()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parse(sys.argv[1:] if arguments is None else arguments)
    cases = [Case(*case) for case in itertools.product(given.models, given.norms, given.compile)]
    lines = []
    with tempfile.TemporaryDirectory() as temporary, process_group(World(0, 1, 0)):
        for case in cases:
            torch.compiler.reset()
            config = case.config(Path(temporary))
            with built(config) as (trainer, view):
                progress = Progress(str(case), 2 * (given.rounds + WARM_UP), unit="blocks")
                both = tasks(trainer, view, given.steps)
                samples = measure(both, clock_for(device()), given.rounds, warm_up=WARM_UP, progress=progress)
                lines.append([case.model, *cells(config, samples, given.steps, view.tokens)])
    table = Table(*HEADS)
    for line in lines:
        table.add_row(*line)
    Console(width=150).print(table)
    if given.out:
        method = (
            f"{given.rounds} rounds of a block of {given.steps} steps with one look and one without, by turns in one process; "
            f"medians over rounds of differences within a round. The last column is for log.telemetry: {INTERVAL}, the default"
        )
        listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.telemetry", method).items()]
        page = ["# Telemetry", "\n".join(listed), markdown_table(HEADS, lines)]
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.with_suffix(".md").write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
