"""What norms cost and how exact they are, beside LayerNorm and RMSNorm of others, on a CPU and on a GPU.

    OMP_NUM_THREADS=1 python -m benchmarks.norms --out benchmarks/results/norms

Forward and backward are timed apart, in interleaved rounds. With ``--out`` it writes OUT.csv (everything), OUT.md (tables and
conditions) and OUT.png (bandwidth beside a copy's). Without a GPU its rows are there and say "not measured".
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

import torch

from ibnorm_megatron.progress import Progress
from ibnorm_megatron.quiet import quiet

from .accuracy import cases, compare
from .contenders import Contender, Inputs, contenders
from .floors import TRAFFIC, Gpu, copy_task, issue_floor, traffic_bytes
from .memory import peak_bytes, saved_bytes
from .rows import NOT_MEASURED, Row, without_figures, write_csv
from .timing import Clock, Task, clock_for, measure, ratio

GPU_SHAPES = [(tokens, width) for tokens in (4096, 16384) for width in (1024, 2048, 4096, 8192)]

Shape = tuple[int, int]


def task_of(contender: Contender, inputs: Inputs) -> Task:
    """Forward, then backward of what it made."""

    def run(clock: Clock) -> dict[str, float]:
        y, forward = clock(lambda: contender.forward(inputs))
        _, backward = clock(lambda: contender.gradients(y, inputs))
        return {"forward": forward, "backward": backward, "both": forward + backward}

    return run


def time_shape(device: torch.device, shape: Shape, dtype: torch.dtype, rounds: int, clock: Clock, compiled: bool) -> list[Row]:
    """All contenders on one shape of a device that is there: three rows each, and those of the copy."""
    torch.compiler.reset()
    inputs = Inputs.random(*shape, dtype, device)
    there, reasons = [], {}
    everyone = contenders(device, compiled=compiled)
    for contender in everyone:
        if reason := (contender.missing and "not installed") or _reason_to_skip(contender, inputs):
            reasons[contender.name] = reason
        else:
            there.append(contender)
    tasks = {contender.name: task_of(contender, inputs) for contender in there}
    tasks["copy"] = copy_task(*shape, dtype, device)
    title = f"{device.type} {shape[0]} x {shape[1]}"
    progress = Progress(title, (rounds + 3) * len(tasks), unit="runs")
    samples = measure(tasks, clock, rounds, progress=progress)
    memory = {one.name: (saved_bytes(one, inputs) / shape[0], peak_bytes(one, inputs)) for one in there}
    floors = _floors(device, shape, dtype, there)
    rows = []
    for row in blank_rows(device.type, shape, dtype, everyone):
        if row.norm in reasons:
            rows.append(without_figures(row, reasons[row.norm]))
            continue
        own = samples[row.norm][row.what]
        median = statistics.median(own)
        row.microseconds, row.shortest_microseconds = 1e6 * median, 1e6 * min(own)
        row.ratio = ratio(own, samples[there[0].name][row.what])
        row.gb_per_s = traffic_bytes(row.what, *shape, dtype) / median / 1e9
        if row.norm != "copy":
            row.copy_share = ratio(samples["copy"][row.what], own)
            row.saved_bytes_per_row, row.peak_bytes = memory[row.norm]
        if row.what in floors.get(row.norm, {}):
            row.issue_share = floors[row.norm][row.what] / median
        rows.append(row)
    return rows


def _reason_to_skip(contender: Contender, inputs: Inputs) -> str:
    """Why it cannot run here, which only another's may; empty if it can. Compiling happens here."""
    try:
        contender.gradients(contender.forward(inputs), inputs)
    except Exception as error:
        if contender.ours:
            raise
        return f"failed: {type(error).__name__}"
    return ""


def _floors(device: torch.device, shape: Shape, dtype: torch.dtype, there: list[Contender]) -> dict[str, dict[str, float]]:
    """Seconds of the issue floor by contender and part, on a GPU for those with kernels of ours."""
    if device.type != "cuda":
        return {}
    gpu = Gpu.of(device)
    return {one.name: issue_floor(gpu, one.plan, *shape, dtype, "bias" in one.uses) for one in there if one.plan}


def blank_rows(device: str, shape: Shape, dtype: torch.dtype, everyone: list[Contender]) -> list[Row]:
    """The rows of a shape, without figures yet."""
    kind = str(dtype).removeprefix("torch.")
    found = [Row(device, *shape, kind, one.name, what, one.formula, one.ours) for one in everyone for what in TRAFFIC]
    return [*found, *(Row(device, *shape, kind, "copy", what) for what in TRAFFIC)]


def error_rows(device: torch.device, shape: Shape, *, there: bool, compiled: bool) -> list[Row]:
    """A row of errors for every type, mean and contender."""
    everyone, rows = contenders(device, compiled=compiled), []
    blank = [
        Row(device.type, *shape, str(dtype).removeprefix("torch."), one.name, "error", one.formula, one.ours, offset)
        for dtype, offset in cases(device)
        for one in everyone
    ]
    if not there:
        return [without_figures(row, NOT_MEASURED) for row in blank]
    with Progress(f"{device.type} errors", len(blank), unit="norms") as progress:
        for row, (_, _, contender, found) in zip(blank, compare(device, shape, compiled=compiled), strict=True):
            progress.advance(note=contender.name)
            if isinstance(found, str):
                without_figures(row, found)
            else:
                for name, value in found.items():
                    setattr(row, f"error_{name}", value)
            rows.append(row)
    return rows


def run(given: argparse.Namespace) -> list[Row]:
    """Measure what the command line says, device by device."""
    rows: list[Row] = []
    for name in given.devices:
        device = torch.device(name)
        there = name == "cpu" or torch.cuda.is_available()
        shapes = given.cpu_shapes if name == "cpu" else given.gpu_shapes
        dtype = getattr(torch, given.cpu_dtype) if name == "cpu" else torch.bfloat16
        clock = clock_for(device) if there else None
        for shape in shapes:
            if clock:
                rows += time_shape(device, shape, dtype, given.rounds, clock, given.compile)
                continue
            everyone = contenders(device, compiled=given.compile)
            fused = {one.name for one in everyone if one.plan}
            blank = blank_rows(name, shape, dtype, everyone)
            rows += [without_figures(row, NOT_MEASURED, issue=row.norm in fused) for row in blank]
        rows += error_rows(device, given.error_shape, there=there, compiled=given.compile)
    return rows


def shape(text: str) -> Shape:
    """``2048x1024`` as rows and width."""
    if not (found := re.fullmatch(r"(\d+)x(\d+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ROWSxWIDTH, as 2048x1024")
    return int(found[1]), int(found[2])


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.norms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], default=["cpu", "cuda"])
    parser.add_argument("--cpu-shapes", nargs="+", type=shape, default=[(2048, 1024)], metavar="ROWSxWIDTH")
    parser.add_argument("--gpu-shapes", nargs="+", type=shape, default=GPU_SHAPES, metavar="ROWSxWIDTH", help="in bfloat16")
    parser.add_argument("--cpu-dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--error-shape", type=shape, default=(4096, 1024), metavar="ROWSxWIDTH")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what torch.compile makes")
    parser.add_argument("--out", type=Path, help="write OUT.csv, OUT.md and OUT.png")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, write the files."""
    quiet()
    given = parse(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(given.threads)
    rows = run(given)
    from .report import draw, print_tables, write_page

    print_tables(rows)
    if given.out:
        write_csv(rows, given.out.with_suffix(".csv"))
        draw(rows, given.out.with_suffix(".png"))
        write_page(rows, given.out.with_suffix(".md"), f"{given.rounds} interleaved rounds")


if __name__ == "__main__":
    main()
