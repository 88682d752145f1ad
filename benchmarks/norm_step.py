"""What norms cost in a whole training step on a CPU: forward, loss, backward, clipping and AdamW of a small LLaMA.

    OMP_NUM_THREADS=1 python -m benchmarks.norm_step --rounds 40 --out benchmarks/results/norms_cpu_step

Every round runs a step of every norm's model; a norm's figure is the median over rounds of its time over LayerNorm's.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import load_config
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.optimizer import build_optimizer

from .conditions import conditions, markdown_table
from .timing import Clock, Samples, Task, clock_for, measure, ratio

HEADS = ["norm", "median ms", "shortest ms", "median ratio", "ratio of shortest"]


def step_tasks(width: int, layers: int, length: int, norms: tuple[str, ...], groups: Groups) -> dict[str, Task]:
    """A step for each norm, on one sequence of random tokens; ``NORM compiled`` is the norm through torch.compile."""
    shape = {"num_layers": layers, "hidden_size": width, "num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    shape |= {"ffn_hidden_size": 11 * width // 4, "vocab_size": 8192, "max_sequence_length": length}
    overrides = [f"model.{name}={value}" for name, value in shape.items()] + [f"train.sequence_length={length}"]
    tokens = torch.randint(8192, (1, length + 1), generator=torch.Generator().manual_seed(0))
    batch = {
        "tokens": tokens[:, :-1].contiguous(),
        "labels": tokens[:, 1:].contiguous(),
        "loss_mask": torch.ones(1, length),
        "position_ids": torch.arange(length).unsqueeze(0),
    }

    def task(norm: str) -> Task:
        own = [
            f"model.norm={norm.removesuffix(' compiled')}",
            f"model.compile={'norms' if norm.endswith('compiled') else 'none'}",
        ]
        config = load_config("configs/tiny_llama.yaml", [*overrides, *own])
        module = LanguageModel(config.model, groups, "fp32", 1)
        optimizer = build_optimizer(module, config.train)

        def step() -> None:
            (module(**batch) / length).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        def run(clock: Clock) -> dict[str, float]:
            return {"step": clock(step)[1]}

        return run

    return {norm: task(norm) for norm in norms}


def lines_of(samples: Samples) -> list[list[str]]:
    """The table's cells; the first contender is what ratios are to."""
    base = next(iter(samples.values()))["step"]
    lines = []
    for name, parts in samples.items():
        own = parts["step"]
        figures = [f"{1e3 * statistics.median(own):.2f}", f"{1e3 * min(own):.2f}"]
        lines.append([name, *figures, f"{ratio(own, base):.3f}", f"{min(own) / min(base):.3f}"])
    return lines


def write(lines: list[list[str]], title: str, method: str, out: Path) -> None:
    """OUT.csv and OUT.md, the latter with the conditions."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADS, *lines])
    listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.norm_step", method).items()]
    out.with_suffix(".md").write_text("\n".join([f"# {title}", "", *listed, "", markdown_table(HEADS, lines), ""]))


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line says."""
    quiet()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.norm_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out the compiled norm")
    parser.add_argument("--out", type=Path, help="write OUT.csv and OUT.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    norms = ("layernorm", "ibnorm_log", "ibnorm_tanh", *(["ibnorm_log compiled"] if given.compile else []))
    title = f"Training step, LLaMA d = {given.width}, {given.layers} layers, one sequence of {given.length}, float32, CPU"
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        tasks = step_tasks(given.width, given.layers, given.length, norms, groups)
        progress = Progress("steps", (given.rounds + 3) * len(tasks), unit="steps")
        lines = lines_of(measure(tasks, clock_for(torch.device("cpu")), given.rounds, progress=progress))
    table = Table(*HEADS, title=title)
    for line in lines:
        table.add_row(*line)
    Console(width=110).print(table)
    if given.out:
        write(lines, title, f"{given.rounds} interleaved rounds; ratios are to the first line, within each round", given.out)


if __name__ == "__main__":
    main()
