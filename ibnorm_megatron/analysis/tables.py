"""What was found, on a terminal, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..files import for_json, write_json, write_text
from ..lab.results import Estimate
from ..printing import printable
from .arms import Figure
from .asking import Answer

_TITLES = {
    "loss": "Loss of held-out documents, each by itself, nats a label",
    "quantization": "Rise of the loss by rounding activations, nats a label (what is rounded, scaled by, format)",
    "robustness": "Rise of the loss by disturbed embeddings, nats a label",
    "domain": "Other text, bits a byte; and the gap between validation and training, nats a label",
    "information": "What norms' outputs say of tokens, nats; docs/information.md says what that means",
    "audit": "What a map that loses nothing changes the matrix-based numbers by, nats: of information it would be 0",
    "bottleneck": "I(T; next token) - beta I(T; x_t), by linear probes, nats",
}

NOTE = (
    "Means over seeds with 95 % Student's intervals; of one run, the interval is over its documents. Differences are from the "
    "first arm, by seed."
)


def print_figures(figures: Sequence[Figure], console: Console) -> None:
    """A table a report, of what is about a site that of the deepest; other sites, and layers alone, are in the files only."""
    for report, rows in _by_report(figures):
        table = Table(title=_TITLES[report], title_justify="left")
        for place, head in enumerate(_heads(report)):
            table.add_column(head, justify="left" if place == 0 else "right")
        for cells in _cells([one for one in rows if one.site == rows[-1].site]):
            table.add_row(*map(printable, cells))
        console.print(table)
    if len({one.site for one in figures if one.site}) > 1:
        console.print("Tables are of the deepest norm; the files that --out writes have all of them.", soft_wrap=True)
    console.print(NOTE, soft_wrap=True)


def write_all(answers: Sequence[Answer], figures: Sequence[Figure], folder: Path) -> None:
    """``analysis.json`` with everything, ``analysis.md`` with the tables."""
    write_json(
        folder / "analysis.json",
        for_json({"runs": [asdict(one) for one in answers], "figures": [asdict(one) for one in figures]}),
    )
    write_text(folder / "analysis.md", markdown(answers, figures))


def markdown(answers: Sequence[Answer], figures: Sequence[Figure]) -> str:
    """The tables, and of which runs they are."""
    parts = ["# What the models do", NOTE]
    for report, rows in _by_report(figures):
        parts += [f"## {_TITLES[report]}", _markdown_table(_heads(report), _cells(rows))]
        if report == "information" and (why := _reasons(answers)):
            parts.append("Without a number: " + "; ".join(why) + ".")
    runs = [(one.norm, str(one.seed), one.run, one.checkpoint) for one in answers]
    parts += ["## Runs", _markdown_table(("norm", "seed", "run", "checkpoint"), runs)]
    return "\n\n".join(parts) + "\n"


def _by_report(figures: Sequence[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    for report in dict.fromkeys(one.report for one in figures):
        rows = [one for one in figures if one.report == report and one.layer is None]
        if rows:
            yield report, rows


def _reasons(answers: Sequence[Answer]) -> list[str]:
    """Why measures have no number, each reason once, with what it is of."""
    found: dict[tuple[str, str], None] = {}
    for answer in answers:
        for told in answer.informed.told if answer.informed is not None else ():
            if math.isnan(told.measure.value):
                found[f"{told.measure.quantity} by {told.measure.estimator}", told.measure.reason] = None
    return [f"{what}: {why}" for what, why in found]


def _heads(report: str) -> tuple[str, ...]:
    return ("" if report == "loss" else "what", "arm", "seeds", "value", "difference", "p", "Holm p")


def _cells(rows: Sequence[Figure]) -> list[tuple[str, ...]]:
    return [
        (one.name, one.arm, str(len(one.seeds)), _shown(one.value), _shown(one.difference), _p(one.p), _p(one.p_holm))
        for one in rows
    ]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shown(one: Estimate | None) -> str:
    if one is None or math.isnan(one.value):
        return "-"
    return f"{one.value:.4f}" + ("" if math.isnan(one.low) else f" ({one.low:.4f} to {one.high:.4f})")


def _p(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "<0.001"
