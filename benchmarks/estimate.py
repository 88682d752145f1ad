"""How far ``ibnorm estimate`` is from what runs hold on this machine, and from what others have published of theirs.

    python -m benchmarks.estimate --out benchmarks/results/estimate

Every config trains a few steps in processes of its own, twice: once to see how much of the process is resident at most, once
to count what PyTorch's allocator gives out. With ``--out`` it writes OUT.csv and OUT.md. ``--published`` needs no processes.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import load_config
from ibnorm_megatron.estimate.memory import memory_of_stage
from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet

from .estimate_published import throughput_lines
from .estimate_worker import MALLOC, work
from .ranks import run_ranks

CONFIG = "configs/tiny_llama.yaml"

#: A model whose tensors are a few hundred MiB, as overrides of :data:`CONFIG`.
SHAPE = {
    "model.num_layers": 4,
    "model.hidden_size": 512,
    "model.num_attention_heads": 8,
    "model.num_key_value_heads": 8,
    "model.ffn_hidden_size": 1408,
    "model.vocab_size": 8192,
    "model.max_sequence_length": 256,
    "train.sequence_length": 256,
    "train.global_batch_size": 4,
    "train.micro_batch_size": 4,
    "train.precision": "fp32",
}

#: A bucket that the model's gradients fill: DeepSpeed's own is larger than the model, and a CPU never touches the rest of it.
_BUCKET = "{zero_optimization: {reduce_bucket_size: 4000000}}"

#: Processes and overrides of :data:`SHAPE`, by name.
CASES: dict[str, tuple[int, Mapping[str, Any]]] = {
    "rmsnorm": (1, {}),
    "ibnorm_log, bf16": (1, {"model.norm": "ibnorm_log", "train.precision": "bf16"}),
    "layernorm, bf16, 2 micro-batches": (
        1,
        {"model.norm": "layernorm", "train.precision": "bf16", "train.global_batch_size": 8},
    ),
    "ibnorm_tanh, sub, q/k norms": (
        1,
        {"model.norm": "ibnorm_tanh", "model.norm_placement": "sub", "model.qk_norm": "per_head"},
    ),
    "GPT-2: GELU, biases, positions, tied": (
        1,
        {
            "model.activation": "gelu",
            "model.linear_bias": "true",
            "model.position_embedding": "learned",
            "model.tie_embeddings": "true",
            "model.norm": "layernorm",
            "model.vocab_size": 8100,
        },
    ),
    "grouped keys, 1,024 tokens, bf16": (
        1,
        {
            "model.num_key_value_heads": 2,
            "train.sequence_length": 1024,
            "model.max_sequence_length": 1024,
            "train.precision": "bf16",
            "train.micro_batch_size": 2,
            "train.global_batch_size": 2,
        },
    ),
    "vocabulary of 32,000": (1, {"model.vocab_size": 32000, "model.num_layers": 2, "model.hidden_size": 256}),
    "width 768": (1, {"model.hidden_size": 768, "model.ffn_hidden_size": 2048, "train.sequence_length": 64}),
    "selective recomputation": (1, {"parallel.recompute": "selective", "model.norm": "ibnorm_log"}),
    "full recomputation, 8 sequences": (
        1,
        {"parallel.recompute": "full", "train.micro_batch_size": 8, "train.global_batch_size": 8},
    ),
    "offloaded, ZeRO 2, bf16": (
        1,
        {
            "parallel.offload_optimizer": "true",
            "parallel.zero_stage": 2,
            "train.precision": "bf16",
            "parallel.deepspeed": _BUCKET,
        },
    ),
    "2 replicas, ZeRO 0": (2, {"parallel.zero_stage": 0, "train.global_batch_size": 8}),
    "2 replicas, ZeRO 1": (2, {"train.global_batch_size": 8, "model.norm": "ibnorm_log"}),
    "2 replicas, ZeRO 2, bf16": (
        2,
        {"parallel.zero_stage": 2, "train.global_batch_size": 16, "train.precision": "bf16", "parallel.deepspeed": _BUCKET},
    ),
    "2 replicas, ZeRO 3": (2, {"parallel.zero_stage": 3, "train.global_batch_size": 8, "parallel.deepspeed": _BUCKET}),
    "tensor 2": (2, {"parallel.tensor": 2, "model.norm": "ibnorm_log"}),
    "tensor 2 + sequence, bf16": (
        2,
        {
            "parallel.tensor": 2,
            "parallel.sequence": "true",
            "train.precision": "bf16",
            "train.micro_batch_size": 16,
            "train.global_batch_size": 16,
        },
    ),
    "pipeline 2": (2, {"parallel.pipeline": 2, "train.global_batch_size": 16}),
    "pipeline 2, ZeRO 2, bf16": (
        2,
        {
            "parallel.pipeline": 2,
            "parallel.zero_stage": 2,
            "train.precision": "bf16",
            "train.global_batch_size": 32,
            "train.micro_batch_size": 8,
            "parallel.deepspeed": _BUCKET,
        },
    ),
    "context 2": (2, {"parallel.context": 2}),
}


@dataclass(frozen=True)
class Found:
    """One config's figures, in bytes, of the rank that held the most.

    Attributes:
        name, processes: which.
        moment: of a step, the fullest by formula.
        formula: the estimate.
        resident: by which the process grew at most.
        counted: that PyTorch's allocator had given out at most; None where nobody counted.
    """

    name: str
    processes: int
    moment: str
    formula: int
    resident: int
    counted: int | None

    @property
    def error(self) -> float:
        """Of the formula against what was resident."""
        return self.formula / self.resident - 1


def overrides_of(changes: Mapping[str, Any]) -> list[str]:
    """A case's overrides of :data:`CONFIG`."""
    return [f"{name}={value}" for name, value in {**SHAPE, **changes}.items()]


def launch(processes: int, overrides: list[str], *, counted: bool, timeout: float = 600) -> list[dict[str, Any]]:
    """Run one config in processes of its own; what each of them found.

    Raises:
        RuntimeError: one of them failed, or took longer than ``timeout`` seconds.
    """
    # The allocator reads its settings when a program begins, so the server that the ranks are forked from has to have them.
    os.environ.update(MALLOC)
    return run_ranks(" ".join(overrides), work, processes, CONFIG, overrides, counted, timeout=timeout)


def measure(name: str, *, counted: bool = True) -> Found:
    """Run one of :data:`CASES` and estimate it."""
    processes, changes = CASES[name]
    overrides = overrides_of(changes)
    config = load_config(CONFIG, overrides, world_size=processes)
    by_stage = [memory_of_stage(config, processes, stage, "cpu") for stage in range(config.parallel.pipeline)]
    estimated = max(by_stage, key=lambda found: found.peak)
    resident = max(rank["resident"] for rank in launch(processes, overrides, counted=False))
    most = max(rank["counted"] for rank in launch(processes, overrides, counted=True)) if counted else None
    return Found(name, processes, estimated.moment, estimated.peak, resident, most)


HEADS = ["config", "processes", "fullest moment", "formula, MiB", "resident, MiB", "error", "counted, MiB", "error"]


def lines_of(found: list[Found]) -> list[list[str]]:
    """The table's cells."""
    lines = []
    for one in found:
        count = (
            ["", ""] if one.counted is None else [_mebibytes(one.counted), f"{100 * (one.formula / one.counted - 1):+.1f} %"]
        )
        sizes = [_mebibytes(one.formula), _mebibytes(one.resident), f"{100 * one.error:+.1f} %"]
        lines.append([one.name, str(one.processes), one.moment, *sizes, *count])
    return lines


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f}"


def write(found: list[Found], out: Path) -> None:
    """OUT.csv to the byte; OUT.md with tables and conditions."""
    from .conditions import conditions, markdown_table
    from .estimate_published import THROUGHPUT_HEADS

    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["config", "processes", "moment", "formula_bytes", "resident_bytes", "counted_bytes", "overrides"])
        for one in found:
            given = " ".join(f"{name}={value}" for name, value in CASES[one.name][1].items())
            writer.writerow([one.name, one.processes, one.moment, one.formula, one.resident, one.counted or "", given])
    method = (
        "each config trains 2 steps in processes of its own, after 2 of a tiny model, which loads and sets up what is loaded "
        "and set up once. Resident: the most that the process held (VmHWM) less what it held before the model, with a C "
        f"library that is told to give freed memory back ({', '.join(f'{k}={v}' for k, v in MALLOC.items())}). Counted: in "
        "another launch, the most that PyTorch's allocator had given out, as its profiler is told of every block"
    )
    listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.estimate", method).items()]
    worst = max(abs(one.error) for one in found)
    base = " ".join(f"{name}={value}" for name, value in SHAPE.items())
    parts = [
        "# Estimates beside measurements",
        "\n".join(listed),
        f"## Memory\n\n{len(found)} configs, all of them overrides of `{CONFIG} {base}`; the csv has each. The largest error "
        f"is {100 * worst:.1f} %. What is resident is more than tensors: in bf16 some 15 MiB that PyTorch's allocator knows "
        "nothing of. A count may be too high, never too low: what gloo's thread frees the profiler does not see.",
        markdown_table(HEADS, lines_of(found)),
        "## Time\n\nPublished runs on GPUs, and the formula with its default efficiency. Nothing here was run on a GPU.",
        markdown_table(THROUGHPUT_HEADS, throughput_lines()),
    ]
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.estimate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME")
    parser.add_argument("--resident", action="store_true", help="launch once only, and count nothing")
    parser.add_argument("--published", action="store_true", help="only the table of published runs")
    parser.add_argument("--out", type=Path, help="write OUT.csv and OUT.md")
    given = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    quiet()
    from .estimate_published import THROUGHPUT_HEADS

    console = Console(width=150)
    if not given.published:
        import torch

        torch.set_num_threads(1)  # as its processes, and as the conditions say
        found = []
        with Progress("estimate", len(given.cases), unit="configs") as progress:
            for name in given.cases:
                found.append(measure(name, counted=not given.resident))
                progress.advance(note=name)
        table = Table(*HEADS, title="memory of the fullest rank")
        for line in lines_of(found):
            table.add_row(*line)
        console.print(table)
        if given.out:
            write(found, given.out)
    table = Table(*THROUGHPUT_HEADS, title="published runs and the formula")
    for line in throughput_lines():
        table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    main()
