"""What norms cost on a CPU: each against F.layer_norm side by side, and in a whole training step.

    OMP_NUM_THREADS=1 python -m benchmarks.norms_cpu operator --out benchmarks/results/norms_cpu_operator
    OMP_NUM_THREADS=1 python -m benchmarks.norms_cpu step --out benchmarks/results/norms_cpu_step

Every round runs every contender once, and a contender's figure is the median over rounds of its time over LayerNorm's in the
same round: what else the machine does hits both. The ratio of the shortest times is beside it.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ibnorm_megatron.config import load_config
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.norms import ib_norm
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.train.optimizer import build_optimizer

Contender = Callable[[], None]
COMPRESSIONS = ("identity", "log", "tanh", "softsign", "asinh")


@dataclass(frozen=True)
class Cost:
    """One contender: its median and shortest seconds, and both over the baseline's."""

    name: str
    median: float
    shortest: float
    ratio_of_medians: float
    ratio_of_shortest: float


def measure(contenders: dict[str, Contender], rounds: int, warm_up: int = 3) -> list[Cost]:
    """Seconds of every contender, interleaved; the first one is the baseline. The median is of the ratios within a round."""
    for contender in contenders.values():
        for _ in range(warm_up):
            contender()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - started)
    base = next(iter(seconds.values()))
    return [
        Cost(
            name,
            statistics.median(own),
            min(own),
            statistics.median(mine / its for mine, its in zip(own, base, strict=True)),
            min(own) / min(base),
        )
        for name, own in seconds.items()
    ]


def operators(rows: int, width: int, dtype: torch.dtype, *, compiled: bool) -> dict[str, Contender]:
    """Forward and backward of every norm on the same ``[rows, width]``, with gain and bias where the norm has them."""
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, rows, width, generator=generator).to(dtype)
    weight, bias = torch.ones(width, dtype=dtype), torch.zeros(width, dtype=dtype)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]

    def both_ways(norm: Callable[[], Tensor], inputs: list[Tensor] = leaves) -> Contender:
        return lambda: void(torch.autograd.grad(norm(), inputs, dy))

    found = {
        "F.layer_norm": both_ways(lambda: F.layer_norm(x, (width,), weight, bias)),
        "F.rms_norm": both_ways(lambda: F.rms_norm(x, (width,), weight), leaves[:2]),
    }
    for name in COMPRESSIONS:
        found[f"IBNorm {name}"] = both_ways(lambda name=name: ib_norm(x, weight, bias, compression=name))
    found["IBNorm log, relative"] = both_ways(lambda: ib_norm(x, weight, bias, scale="relative"))
    lam = torch.full((1,), 4.0, requires_grad=True)
    found["IBNorm log, learned lambda"] = both_ways(lambda: ib_norm(x, weight, bias, lam=lam), [*leaves, lam])
    if compiled:
        for name in ("log", "tanh", "softsign"):
            fused = torch.compile(lambda x, weight, bias, name=name: ib_norm(x, weight, bias, compression=name), fullgraph=True)
            found[f"IBNorm {name}, compiled"] = both_ways(lambda fused=fused: fused(x, weight, bias))
    return found


def steps(width: int, layers: int, length: int, norms: tuple[str, ...], groups: Groups) -> dict[str, Contender]:
    """A whole step (forward, loss, backward, clipping, AdamW) of a LLaMA for each norm, on one sequence of random tokens."""
    shape = {"num_layers": layers, "hidden_size": width, "num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    shape |= {"ffn_hidden_size": 11 * width // 4, "vocab_size": 8192, "max_sequence_length": length}
    overrides = [f"model.{name}={value}" for name, value in shape.items()] + [f"train.sequence_length={length}"]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(8192, (1, length + 1), generator=generator)
    batch = {
        "tokens": tokens[:, :-1].contiguous(),
        "labels": tokens[:, 1:].contiguous(),
        "loss_mask": torch.ones(1, length),
        "position_ids": torch.arange(length).unsqueeze(0),
    }

    def contender(norm: str) -> Contender:
        own = [f"model.norm={norm.removesuffix(' compiled')}", f"model.compile_norms={str(norm.endswith('compiled')).lower()}"]
        config = load_config("configs/tiny_llama.yaml", [*overrides, *own])
        module = LanguageModel(config.model, groups, "fp32", 1)
        optimizer = build_optimizer(module, config.train)

        def step() -> None:
            (module(**batch) / length).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return {norm: contender(norm) for norm in norms}


def saved_bytes_per_row(norm: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> float:
    """Bytes that autograd keeps for backward, over the rows of x ``[rows, d]``; parameters, which live anyway, do not count."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm(x)
    known = {parameter.data_ptr() for parameter in parameters}
    return sum(size for address, size in saved.items() if address not in known) / x.shape[0]


def void(_: object) -> None:
    """Drop a value."""


def write(costs: list[Cost], title: str, conditions: dict[str, str], out: Path | None) -> None:
    """Print the table; with ``out`` also write OUT.csv and OUT.md, the latter with the conditions."""
    heads = ["norm", "median ms", "shortest ms", "median ratio", "ratio of shortest"]
    lines = [
        [c.name, *(f"{1e3 * s:.2f}" for s in (c.median, c.shortest)), f"{c.ratio_of_medians:.3f}", f"{c.ratio_of_shortest:.3f}"]
        for c in costs
    ]
    table = Table(*heads, title=title)
    for line in lines:
        table.add_row(*line)
    Console(width=110).print(table)
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([heads, *lines])
    rows = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines)]
    listed = [f"* {name}: {value}" for name, value in conditions.items()]
    out.with_suffix(".md").write_text("\n".join([f"# {title}", "", *listed, "", *rows, ""]))


def conditions(rounds: int) -> dict[str, str]:
    """Under which the numbers hold."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "ibnorm_megatron"], check=False).returncode  # noqa: S607
    return {
        "hardware": f"{_processor()}, {torch.get_num_threads()} thread(s); other processes shared the machine",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "commit": commit.stdout.strip() + (" with changes" if changed else ""),
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python -m benchmarks.norms_cpu {' '.join(sys.argv[1:])}",
        "method": f"{rounds} interleaved rounds; ratios are to the first line, within each round",
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    wide = "AVX-512" if "avx512f" in named.get("flags", "") else "no AVX-512"
    return (
        f"{named.get('model name', platform.machine())} (family {named.get('cpu family')} model {named.get('model')}), {wide}"
    )


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["operator", "step"])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--width", type=int, default=None, help="1024 for the operator, 512 for the step")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="write OUT.csv and OUT.md")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        if given.what == "operator":
            width = given.width or 1024
            found = operators(given.rows, width, getattr(torch, given.dtype), compiled=not given.no_compile)
            title = f"Forward and backward, {given.rows} x {width}, {given.dtype}, CPU"
        else:
            width = given.width or 512
            norms = ("layernorm", "ibnorm_log", "ibnorm_tanh", *([] if given.no_compile else ["ibnorm_log compiled"]))
            found = steps(width, given.layers, given.length, norms, groups)
            title = f"Training step, LLaMA d = {width}, {given.layers} layers, one sequence of {given.length}, float32, CPU"
        write(measure(found, given.rounds), title, conditions(given.rounds), given.out)


if __name__ == "__main__":
    main()
