"""What layouts send, hold and take on this machine: bytes by group, counted and by formula, memory and time of a step.

    python -m benchmarks.layouts --out benchmarks/results/layouts

Every layout runs in processes of its own, once a round. With ``--out`` it writes OUT.csv, OUT.md and OUT.png. Bytes are what
they are on any machine; times of processes that share a few CPU cores say nothing about GPUs.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ibnorm_megatron.config import load_config
from ibnorm_megatron.parallel.messages import GROUPS, Message, sent_by_group
from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.traffic import step_messages

from .conditions import conditions, markdown_table
from .layout_worker import work
from .ranks import run_ranks

CONFIG = "configs/tiny_llama.yaml"

_SEQUENCE = "parallel.sequence=true"


def _layout(zero: int = 1, **sizes: int | str) -> list[str]:
    return [f"parallel.zero_stage={zero}", *(f"parallel.{name}={value}" for name, value in sizes.items())]


#: Overrides by processes and name.
LAYOUTS: dict[int, dict[str, list[str]]] = {
    2: {
        **{f"dp2 zero{stage}": _layout(stage) for stage in range(4)},
        "tp2": _layout(tensor=2),
        "tp2-sp": [*_layout(tensor=2), _SEQUENCE],
        "tp2-sp recompute": [*_layout(tensor=2, recompute="full"), _SEQUENCE],
        "pp2": _layout(pipeline=2),
        "cp2 all-gather": _layout(context=2),
        "cp2 all-to-all": _layout(context=2, context_method="all_to_all"),
    },
    4: {
        "dp4 zero1": _layout(1),
        "dp4 zero3": _layout(3),
        "tp4-sp": [*_layout(tensor=4), _SEQUENCE],
        "tp2-sp-dp2 zero1": [*_layout(1, tensor=2), _SEQUENCE],
        "tp2-sp-dp2 zero3": [*_layout(3, tensor=2), _SEQUENCE],
        "tp2-sp-pp2": [*_layout(tensor=2, pipeline=2), _SEQUENCE],
        "tp2-sp-cp2": [*_layout(tensor=2, context=2), _SEQUENCE],
        "pp2-dp2 zero2": _layout(2, pipeline=2),
    },
}


@dataclass(frozen=True)
class Found:
    """One layout's figures.

    Attributes:
        processes, layout: which.
        sent: bytes that the rank which sends the most sends in a step, by group, counted.
        formula: the same by formula.
        seconds: of every timed step, of the slowest rank.
        grown: most bytes that any rank's process grew by from before the model was built.
    """

    processes: int
    layout: str
    sent: dict[str, float]
    formula: dict[str, float]
    seconds: list[float]
    grown: int


def shape(given: argparse.Namespace) -> list[str]:
    """The model and the batch, as overrides of :data:`CONFIG`."""
    heads = given.width // 64
    model = {
        "num_layers": given.layers, "hidden_size": given.width, "num_attention_heads": heads,
        "num_key_value_heads": heads, "ffn_hidden_size": 11 * given.width // 4, "vocab_size": given.vocabulary,
        "max_sequence_length": given.length, "norm": "ibnorm_log",
    }  # fmt: skip
    train = {"sequence_length": given.length, "global_batch_size": 8, "micro_batch_size": 2, "precision": given.precision}
    return [f"model.{name}={value}" for name, value in model.items()] + [f"train.{k}={value}" for k, value in train.items()]


def run_layout(processes: int, overrides: list[str], steps: int) -> list[dict[str, Any]]:
    """Run one layout in processes of its own; what each of them found.

    Raises:
        RuntimeError: one of them failed.
    """
    return run_ranks(" ".join(overrides), work, processes, steps, CONFIG, overrides)


def found_of(processes: int, layout: str, overrides: list[str], rounds: list[list[dict[str, Any]]]) -> Found:
    """The figures of a layout from all its rounds, and the formula for the rank that sent the most."""
    by_rank = [[Message(**message) for message in rank["messages"]] for rank in rounds[-1]]
    most = max(range(processes), key=lambda rank: sum(message.sent for message in by_rank[rank]))
    config = load_config(CONFIG, overrides, world_size=processes)
    formula = sent_by_group(step_messages(config, processes, rounds[-1][most]["stage"]))
    seconds = [max(of_ranks) for ranks in rounds for of_ranks in zip(*(rank["seconds"] for rank in ranks), strict=True)]
    grown = max(rank["grown"] for ranks in rounds for rank in ranks)
    return Found(processes, layout, sent_by_group(by_rank[most]), formula, seconds, grown)


def run(given: argparse.Namespace) -> list[Found]:
    """Measure every layout asked for, in rounds over all of them."""
    cases = [
        (processes, name, [*shape(given), *overrides])
        for processes in given.processes
        for name, overrides in LAYOUTS[processes].items()
        if not given.layouts or name in given.layouts
    ]
    rounds: dict[tuple[int, str], list[list[dict[str, Any]]]] = {case[:2]: [] for case in cases}
    with Progress("layouts", given.rounds * len(cases), unit="launches") as progress:
        for _ in range(given.rounds):
            for processes, name, overrides in cases:
                rounds[processes, name].append(run_layout(processes, overrides, given.steps))
                progress.advance(note=f"{processes} processes, {name}")
    return [found_of(processes, name, overrides, rounds[processes, name]) for processes, name, overrides in cases]


HEADS = ["processes", "layout", "group", "MiB sent, counted", "by formula", "step ms", "shortest ms", "grown by MiB"]


def lines_of(found: list[Found]) -> list[list[str]]:
    """The table's cells: a line of sums for each layout, and one for each group that sends over 0.005 MiB or differs."""
    lines = []
    for one in found:
        total, formula = sum(one.sent.values()), sum(one.formula.values())
        times = [f"{1e3 * statistics.median(one.seconds):.0f}", f"{1e3 * min(one.seconds):.0f}"]
        head = [str(one.processes), one.layout]
        lines.append([*head, "all", _mebibytes(total), _mebibytes(formula), *times, f"{one.grown / 2**20:.0f}"])
        for group in sorted(one.sent.keys() | one.formula.keys(), key=lambda name: (*GROUPS, name).index(name)):
            counted, reckoned = one.sent.get(group, 0.0), one.formula.get(group, 0.0)
            if max(counted, reckoned) > 0.005 * 2**20 or counted != reckoned:
                lines.append([*head, group, _mebibytes(counted), _mebibytes(reckoned), "", "", ""])
    return lines


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.3f}"


def write(found: list[Found], given: argparse.Namespace, title: str) -> None:
    """OUT.csv with every group to the byte; OUT.md with the table and the conditions; OUT.png."""
    out: Path = given.out
    out.parent.mkdir(parents=True, exist_ok=True)
    names = ["processes", "layout", "group", "bytes_counted", "bytes_by_formula"]
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "median_seconds", "shortest_seconds", "grown_bytes"])
        for one in found:
            times = [f"{statistics.median(one.seconds):.6g}", f"{min(one.seconds):.6g}", one.grown]
            for group in one.sent.keys() | one.formula.keys():
                writer.writerow([one.processes, one.layout, group, one.sent.get(group, 0), one.formula.get(group, 0), *times])
    method = (
        f"{given.rounds} rounds over all layouts, each in processes of its own, of {given.steps} steps after "
        "2 others; a step is as long as on its slowest rank. Bytes are those of one more step on the rank that sends the "
        "most, counted at torch.distributed's operators, as sent by rings. Grown: the most that any rank's process grew by "
        "since before the model was built"
    )
    listed = [f"* {name}: {value}" for name, value in conditions("benchmarks.layouts", method).items()]
    on_cpu = (
        "processes share the cores of one machine, and gloo moves their bytes through its memory. They say nothing about GPUs, "
        "nor which layout is fastest there"
    )
    where = "this machine's GPUs and links" if torch.cuda.is_available() else on_cpu
    note = f"Bytes by group do not depend on the machine. The times do: {where}."
    parts = [
        f"# {title}",
        "\n".join(listed),
        note,
        f"![Bytes by group]({out.stem}.png)",
        markdown_table(HEADS, lines_of(found)),
    ]
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    draw(found, out.with_suffix(".png"))


def draw(found: list[Found], path: Path) -> None:
    """A bar for each layout, stacked by group as counted, with a mark where the formula puts each group's end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(10, 0.42 * len(found) + 1.6), layout="constrained")
    labels = [f"{one.layout} ({one.processes})" for one in found]
    left, formula = [0.0] * len(found), [0.0] * len(found)
    for color, group in enumerate(
        name for name in GROUPS if any(max(one.sent.get(name, 0), one.formula.get(name, 0)) > 5000 for one in found)
    ):
        sizes = [one.sent.get(group, 0.0) / 2**20 for one in found]
        panel.barh(labels, sizes, left=left, color=f"C{color}", label=f"{group}, counted")
        left = [a + b for a, b in zip(left, sizes, strict=True)]
        shares = [one.formula.get(group, 0.0) / 2**20 for one in found]
        formula = [a + b for a, b in zip(formula, shares, strict=True)]
        ends = [(end, label) for end, label, share in zip(formula, labels, shares, strict=True) if share > 0]
        panel.plot(*zip(*ends, strict=True), "k|", ms=16, mew=1.5, label="by formula" if color == 0 else None)
    panel.invert_yaxis()
    panel.set_xlabel("MiB that a rank sends in a step (the rank that sends the most)")
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    panel.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _backend() -> str:
    return "GPU and NCCL" if torch.cuda.is_available() else "CPU and gloo"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layouts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", choices=sorted(LAYOUTS), default=sorted(LAYOUTS))
    parser.add_argument("--layouts", nargs="+", metavar="NAME", help="only these, such as 'tp2-sp'")
    parser.add_argument(
        "--width", type=int, default=512, help="of the model; a multiple of 256, for four ranks with a head each"
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--steps", type=int, default=4, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write OUT.csv, OUT.md and OUT.png")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the files."""
    quiet()
    torch.set_num_threads(1)  # as its processes, and as the conditions say
    os.environ["OMP_NUM_THREADS"] = "1"
    given = parse(sys.argv[1:] if arguments is None else arguments)
    found = run(given)
    model = f"LLaMA d = {given.width}, {given.layers} layers, {given.vocabulary} words"
    title = f"Layouts: {model}, 8 x {given.length} tokens a step in micro-batches of 2, {given.precision}, {_backend()}"
    table = Table(*HEADS, title=title)
    for line in lines_of(found):
        table.add_row(*line)
    Console(width=120).print(table)
    if given.out:
        write(found, given, title)


if __name__ == "__main__":
    main()
