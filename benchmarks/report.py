"""From the rows to what people read: tables on the terminal, a page, a picture, and whether the goals are met."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .accuracy import verdict
from .conditions import conditions, markdown_table
from .rows import NOT_MEASURED, Figure, Row

#: Shares of the copy's bandwidth on a GPU, and total time over that of the fastest RMSNorm of others.
GOALS = {"forward": 0.90, "backward": 0.85, "rmsnorm": 1.05}

#: The lines of the picture; all else is in the table.
DRAWN = (
    "F.layer_norm",
    "F.rms_norm",
    "Liger RMSNorm",
    "Quack RMSNorm",
    "ours layernorm",
    "ours rmsnorm",
    "ours log",
    "ours tanh",
)

COST_HEADS = ["norm", "part", "us", "shortest us", "ratio", "GB/s", "of copy", "of issue floor", "saved B/row", "peak MB"]
ERROR_HEADS = ["type", "mean", "norm", "y", "dx", "dgamma", "dbeta", "beside peers"]


def _text(value: Figure, spec: str, scale: float = 1.0) -> str:
    return "" if value is None else value if isinstance(value, str) else format(scale * value, spec)


def cost_lines(rows: list[Row]) -> list[list[str]]:
    """The cells of one device's and shape's timing rows."""
    return [
        [
            row.norm, row.what, _text(row.microseconds, ".1f"), _text(row.shortest_microseconds, ".1f"),
            _text(row.ratio, ".2f"), _text(row.gb_per_s, ".1f"), _text(row.copy_share, ".0%"), _text(row.issue_share, ".0%"),
            _text(row.saved_bytes_per_row, ".0f"), _text(row.peak_bytes, ".1f", 1e-6),
        ]
        for row in rows
    ]  # fmt: skip


def error_lines(rows: list[Row]) -> list[list[str]]:
    """The cells of one device's error rows; for ours, also how they stand beside the peers of the same formula."""
    lines = []
    for row in rows:
        figures = [_text(value, ".2e") for value in (row.error_y, row.error_dx, row.error_dgamma, row.error_dbeta)]
        lines.append([row.dtype, f"{row.offset:g}", row.norm, *figures, standing(row, rows)])
    return lines


def standing(row: Row, rows: list[Row]) -> str:
    """The verdict on one of ours; empty for others and where nothing was measured."""
    if not row.ours or not row.errors():
        return ""
    case = (row.device, row.dtype, row.offset, row.formula)
    peers = [one.errors() for one in rows if not one.ours and (one.device, one.dtype, one.offset, one.formula) == case]
    return verdict(row.errors(), [peer for peer in peers if peer])


def goal_lines(rows: list[Row]) -> list[list[str]]:
    """For every fused norm of ours on the GPU, the worst figure over the shapes beside each goal."""
    timed = [row for row in rows if row.device == "cuda" and row.what != "error"]
    lines = []
    for name in dict.fromkeys(row.norm for row in timed if row.ours and row.issue_share is not None):
        own = [row for row in timed if row.norm == name]
        if any(isinstance(row.microseconds, str) for row in own):
            lines.append([name, *[NOT_MEASURED] * 3])
            continue
        cells = []
        for what in ("forward", "backward"):
            worst = min(row.copy_share for row in own if row.what == what)
            cells.append(f"{worst:.0%}, {_met(worst >= GOALS[what])}")
        beside = []
        for row in own:
            if row.what == "both":
                others = [one.microseconds for one in timed if one.shape == row.shape and one.what == "both"
                          and one.formula == "rmsnorm" and not one.ours and isinstance(one.microseconds, float)]  # fmt: skip
                beside.append(row.microseconds / min(others))
        cells.append(f"{max(beside):.2f}, {_met(max(beside) <= GOALS['rmsnorm'])}")
        lines.append([name, *cells])
    return lines


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _parts(rows: list[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, heads and cells of every table."""
    found = []
    timed = [row for row in rows if row.what != "error"]
    for (device, shape, dtype), group in groupby(timed, lambda row: (row.device, row.shape, row.dtype)):
        found.append((f"{device}, {shape}, {dtype}", COST_HEADS, cost_lines(list(group))))
    for (device, shape), group in groupby([row for row in rows if row.what == "error"], lambda row: (row.device, row.shape)):
        found.append((f"Relative errors, {device}, {shape}", ERROR_HEADS, error_lines(list(group))))
    return found


def print_tables(rows: list[Row]) -> None:
    """What was measured, on the terminal; what was not is one line."""
    console = Console(width=140)
    for title, heads, lines in _parts(rows):
        if all(NOT_MEASURED in line for line in lines):
            console.print(f"{title}: {NOT_MEASURED}")
            continue
        table = Table(*heads, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)


def write_page(rows: list[Row], path: Path, method: str) -> None:
    """The page: conditions, goals, and every table."""
    listed = "\n".join(f"* {name}: {value}" for name, value in conditions("benchmarks.norms", _method(method)).items())
    heads = ["norm", "forward >= 90 % of copy", "backward >= 85 %", "total <= 1.05 of the fastest RMSNorm of others"]
    lines = goal_lines(rows)
    goals = markdown_table(heads, lines) if lines else "No GPU was asked for."
    parts = [f"# Norms side by side\n\n{listed}", f"![Bandwidth beside a copy's]({path.stem}.png)"]
    parts.append(f"## Goals on an H200 (bf16, the worst of the shapes)\n\n{goals}")
    for title, heads, lines in _parts(rows):
        if all(NOT_MEASURED in line for line in lines):
            parts.append(f"## {title}\n\n{NOT_MEASURED}: {len(lines)} rows in the CSV say so.")
        else:
            parts.append(f"## {title}\n\n{markdown_table(heads, lines)}")
    path.write_text("\n\n".join(parts) + "\n")


def _method(rounds: str) -> str:
    return (
        f"{rounds}; a ratio is to the first line and the share of copy to a copy of as many bytes, each the median of that "
        "within a round. CPU times of one thread are what the process computes, not what it waits. GPU times are between "
        "events, with the cache overwritten before and the host ahead. GB/s counts x, y, "
        "dy and dx, each moved once. Issue floor: instructions of the kernel's machine code at the highest clock. Errors: "
        "||out - ref|| / ||ref|| with ref in float64 on the rounded input; within a factor of 1.25 of the best peer is a tie"
    )


def draw(rows: list[Row], path: Path) -> None:
    """Share of the copy's bandwidth over elements, forward and backward, one row of panels a device; the roof is the copy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), sharex="row", layout="constrained")
    names = [name for name in (*DRAWN, "ours log, compiled") if any(row.norm == name for row in rows)]
    for line, device in enumerate(("cpu", "cuda")):
        for column, what in enumerate(("forward", "backward")):
            panel = axes[line, column]
            panel.set_title(f"{device}, {what}")
            own = [row for row in rows if row.device == device and row.what == what and isinstance(row.gb_per_s, float)]
            if not own:
                panel.text(0.5, 0.5, NOT_MEASURED, ha="center", va="center", transform=panel.transAxes, fontsize=16)
                panel.set_xticks([])
                panel.set_yticks([])
                continue
            _draw_panel(panel, own, names)
    handles = {text: handle for panel in axes.flat for handle, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(panel: Any, rows: list[Row], names: list[str]) -> None:
    from matplotlib.ticker import NullFormatter, PercentFormatter

    copy = [row.gb_per_s for row in rows if row.norm == "copy"]
    panel.set_title(f"{panel.get_title()} (copy: {min(copy):.3g} to {max(copy):.3g} GB/s)")
    panel.axhline(1.0, color="black", lw=2, label="copy of as many bytes")
    for number, name in enumerate(names):
        points = sorted((row.rows * row.width, row.copy_share) for row in rows if row.norm == name)
        if points:
            panel.plot(*zip(*points, strict=True), label=name, color=f"C{number}", marker="o")
    panel.set(xscale="log", yscale="log", xlabel="elements", ylabel="share of the copy's bandwidth")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3, which="both")
