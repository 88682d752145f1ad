"""The last values of every site in the terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from ..printing import printable
from .series import Series

#: Columns of the table: a figure, its head, and how it is written.
_COLUMNS = (
    ("std", "std", "{:.3g}"),
    ("sigma_over_lambda", "sigma / lambda", "{:.3g}"),
    ("beyond_lambda", "beyond lambda", "{:.1%}"),
    ("contraction", "contraction", "{:.3f}"),
    ("slope", "slope", "{:.3f}"),
    ("variance_ratio", "variance ratio", "{:.3g}"),
    ("kurtosis", "kurtosis", "{:.3g}"),
    ("crest", "crest", "{:.3g}"),
    ("outliers", "outliers", "{:.0f}"),
    ("outlier_energy", "their energy", "{:.1%}"),
    ("gamma_mean", "gamma", "{:.3g}"),
    ("gamma_std", "gamma std", "{:.2g}"),
)


def print_table(series: Series, console: Console) -> None:
    """A line a site, with what some site of the run has; and the gradient's parts."""
    shown = [column for column in _COLUMNS if series.has(column[0])]
    table = Table(title=f"{printable(series.name)}, after step {series.steps[-1]:,}", title_justify="left")
    table.add_column("site", no_wrap=True)
    for _, head, _ in shown:
        table.add_column(head, justify="right")
    for number, site in enumerate(series.sites):
        values = [(float(series.figures[figure][number, -1]), form) for figure, _, form in shown]
        table.add_row(printable(site), *(form.format(value) if math.isfinite(value) else "-" for value, form in values))
    console.print(table, markup=False)
    parts = [f"{part} {values[-1]:.3g}" for part, values in series.grad_norm.items() if math.isfinite(values[-1])]
    console.print(f"gradient's norm: {printable(', '.join(parts))}", markup=False)
