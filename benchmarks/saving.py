"""What a checkpoint costs a run: how long training stands still for it, and how much slower steps are while it is written.

    OMP_NUM_THREADS=1 python -m benchmarks.saving --out benchmarks/results/saving

One process trains, saves, goes on until the checkpoint is committed and a few steps more, and saves again, by turns in the
background and waiting for every file. What is lost by a save is the time that the main thread spends on it, and what the
steps until its end take beyond the median of steps when nothing is written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.checkpoint import Checkpoint
from ibnorm_megatron.train.config import CheckpointConfig
from ibnorm_megatron.train.loop import Trainer
from ibnorm_megatron.train.run import build_engine
from ibnorm_megatron.train.run_card import run_card
from ibnorm_megatron.train.run_folder import RunFolder

from .conditions import conditions, markdown_table
from .loader import MODELS, synthetic

HEADS = [
    "model",
    "checkpoint MiB",
    "way",
    "step ms",
    "stands still ms",
    "steps while writing",
    "lost by them ms",
    "of 100 steps",
]


@dataclass
class Saved:
    """Seconds that one save cost."""

    still: float
    during: list[float] = field(default_factory=list)


def measure(config: Config, data: Path, rounds: int, quiet_steps: int) -> dict[bool, tuple[list[Saved], list[float]]]:
    """Saves of one run, in the background and not, and the seconds of steps while nothing is written."""
    found: dict[bool, tuple[list[Saved], list[float]]] = {True: ([], []), False: ([], [])}
    with model_parallel(config.parallel, config.train.seed) as groups:
        prepared, train = read_prepared(config.data), config.train
        folder = RunFolder(config.run.dir)
        sequences = SequenceDataset(prepared, "train", train.sequence_length, train.seed, folder.index_cache)
        sizes = {"global_batch_size": train.global_batch_size, "micro_batch_size": train.micro_batch(1)}
        loader = Loader(sequences, **sizes, data_rank=0, data_size=1, ahead=1)
        trainer = Trainer(config, prepared, groups, build_engine(config, groups), loader, folder, [])
        trainer.folder.begin(run_card(config, trainer.prepared, 1), 0)
        ways = {way: Checkpoint(CheckpointConfig(interval=1, background=way)) for way in (True, False)}
        for _ in range(3):
            _step(trainer)
        for callback in ways.values():  # the first copy allocates; what a run sees is the second and later
            _save(trainer, callback, True)
        for _ in range(rounds):
            for way, callback in ways.items():
                saves, undisturbed = found[way]
                undisturbed += [_step(trainer) for _ in range(quiet_steps)]
                saves.append(_save(trainer, callback, way))
        for callback in ways.values():
            callback.close()
        loader.close()
        trainer.engine.close()
    return found


def _step(trainer: Trainer) -> float:
    started = time.perf_counter()
    trainer._step()
    return time.perf_counter() - started


def _save(trainer: Trainer, callback: Checkpoint, background: bool) -> Saved:
    """Save, and take steps until the checkpoint is there."""
    step = trainer.state.step
    trainer.callbacks = [callback]
    started = time.perf_counter()
    callback.after_step(trainer)
    saved = Saved(time.perf_counter() - started)
    while background and callback._saved_at != step:
        saved.during.append(_step(trainer))
    trainer.callbacks = []
    return saved


def line(name: str, way: str, size: int, saves: list[Saved], undisturbed: list[float]) -> list[str]:
    """A row of the table: medians over the saves."""
    step = statistics.median(undisturbed)
    still = statistics.median(saved.still for saved in saves)
    during = statistics.median(len(saved.during) for saved in saves)
    slower = statistics.median(sum(saved.during) - step * len(saved.during) for saved in saves)
    lost = f"{100 * (still + max(0.0, slower)) / (100 * step):.3f} %"
    numbers = [f"{1e3 * step:.1f}", f"{1e3 * still:.1f}", f"{during:.0f}", f"{1e3 * slower:.1f}"]
    return [name, f"{size / 2**20:.1f}", way, *numbers, lost]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5, help="saves of either way")
    parser.add_argument("--quiet-steps", type=int, default=8, help="steps between saves, timed")
    parser.add_argument("--folder", type=Path, help="where runs are written; a new temporary one by default")
    parser.add_argument("--out", type=Path, help="write OUT.md")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the file."""
    quiet()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parse(sys.argv[1:] if arguments is None else arguments)
    lines = []
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary, process_group(World(0, 1, 0)):
        for name in given.models:
            run, data = Path(temporary, name), Path(temporary, f"{name}-data")
            overrides = [*MODELS[name], "train.steps=100000", f"run.dir={run}", f"data.path={data}", "log.console=false"]
            config = load_config(f"configs/{name}.yaml", overrides)
            synthetic(data, 4000, 2_000_000, config.model.vocab_size, hole=False)
            with RunFolder(run).claim(config.to_yaml()):
                found = measure(config, data, given.rounds, given.quiet_steps)
            newest = run / "checkpoints" / str(RunFolder(run).latest_checkpoint())
            size = sum(path.stat().st_size for path in newest.iterdir())
            for way, (saves, undisturbed) in found.items():
                lines.append(line(name, "in the background" if way else "waiting", size, saves, undisturbed))
    table = Table(*HEADS)
    for cells in lines:
        table.add_row(*cells)
    Console(width=140).print(table)
    if given.out:
        method = (
            f"{given.rounds} saves of either way by turns, one process, files on a local disk with fsync; medians. Steps are "
            "those of Trainer with AdamW under DeepSpeed ZeRO-1; the last column is what a save every 100 steps takes of them"
        )
        listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.saving", method).items()]
        given.out.with_suffix(".md").write_text(
            "\n\n".join(["# Saving", "\n".join(listed), markdown_table(HEADS, lines)]) + "\n"
        )


if __name__ == "__main__":
    main()
