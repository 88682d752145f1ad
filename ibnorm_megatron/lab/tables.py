"""An analysis on a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..files import for_json, write_json
from ..printing import printable
from .results import Analysis, Estimate

_STYLES = {
    "better": "green",
    "worse": "red",
    "failed": "bold red",
    "equivalent": "cyan",
    "undecided": "yellow",
    "interim": "magenta",
}


def print_analysis(analysis: Analysis, console: Console | None = None) -> None:
    """Verdicts first, then what they stand on, then what to know before believing anything."""
    console = console or Console(highlight=False)
    for verdict in analysis.verdicts:
        level = f"[{_STYLES[verdict.level]}]{verdict.level:>10}[/]  "
        console.print(level, end="")
        console.print(printable(verdict.sentence), markup=False, soft_wrap=True)
    for table in _tables(analysis):
        console.print(table)
    for warning in analysis.warnings:
        console.print(printable(f"warning: {warning}"), style="yellow", markup=False, soft_wrap=True)


def _tables(analysis: Analysis) -> Iterator[Table]:
    if analysis.multipliers:
        title = "Compute multipliers with 95 % intervals: above 1 the arm needs less compute than the baseline"
        table = _table(title, ("arm", "multiplier", "likelihood's", "u1", "p", "Holm", "slowdown", "by the clock"))
        for gain in analysis.multipliers:
            intervals = [_shown(gain.mean), _shown(gain.profile_mean), _shown(gain.u1, 4), _p(gain.p_u0), _p(gain.p_holm)]
            table.add_row(printable(gain.arm), *intervals, _shown(gain.slowdown), _shown(gain.in_seconds))
        yield table
    if analysis.paired:
        heads = ("arm", "size", "tokens a parameter", "pairs", "by t", "by sign flips", "p", "Holm")
        table = _table(f"Loss minus {analysis.baseline}'s, nats, with 95 % intervals", heads)
        for row in analysis.paired:
            pairs = str(row.pairs) + (f" of {row.pairs + row.missing + row.pending}" if row.missing or row.pending else "")
            where = ("all", "all") if row.size is None or row.horizon is None else (printable(row.size), f"{row.horizon:g}")
            table.add_row(
                printable(row.arm), *where, pairs, _shown(row.by_t, 4), _shown(row.by_signs, 4), _p(row.p), _p(row.p_holm)
            )
        yield table
    if analysis.surface:
        surface = analysis.surface
        table = _table("L = E + A N^-alpha + B D^-beta", ("constant", "value", "95 % interval"))
        table.caption = f"{surface.points} points, spread {surface.spread:.2g} of log L"
        for name in ("E", "A", "B", "alpha", "beta"):
            one: Estimate = getattr(surface, name)
            table.add_row(name, f"{one.value:.5g}", f"{one.low:.5g} to {one.high:.5g}")
        yield table


def _table(title: str, heads: tuple[str, ...]) -> Table:
    table = Table(title=printable(title), title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place == 0 else "right")
    return table


def _shown(one: Estimate | None, digits: int = 3) -> str:
    return "-" if one is None else f"{one.value:.{digits}f} ({one.low:.{digits}f} to {one.high:.{digits}f})"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def write_analysis(analysis: Analysis, path: Path) -> None:
    """All of it as JSON; what is no finite number is null."""
    write_json(path, for_json(asdict(analysis)))
