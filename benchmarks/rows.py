"""The benchmark's one table: a row for every device, shape, contender and part, and a row for its errors."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

Figure = float | str | None

NOT_MEASURED = "not measured"


@dataclass
class Row:
    """A line of the CSV; a figure is a number, the reason why there is none, or empty where it makes no sense.

    Attributes:
        device: cpu or cuda.
        rows, width, dtype: the input's; ``offset`` is its mean.
        norm: the contender.
        formula: what it computes.
        ours: whether it is this project's.
        what: forward, backward, both; or error.
        microseconds, shortest_microseconds: median over the rounds, and the shortest.
        ratio: to the device's first contender, the median of that within each round.
        gb_per_s: bytes that have to move, over the median time.
        copy_share: that over the bandwidth of a copy of as many bytes, measured in the same rounds.
        issue_share: the issue floor over the median time; of fused kernels on a GPU.
        saved_bytes_per_row: what autograd keeps for backward, x included.
        peak_bytes: the most that forward and backward together hold, results included.
        error_y, error_dx, error_dgamma, error_dbeta: relative errors in the 2-norm.
    """

    device: str
    rows: int
    width: int
    dtype: str
    norm: str
    what: str
    formula: str = ""
    ours: bool = False
    offset: float = 0.0
    microseconds: Figure = None
    shortest_microseconds: Figure = None
    ratio: Figure = None
    gb_per_s: Figure = None
    copy_share: Figure = None
    issue_share: Figure = None
    saved_bytes_per_row: Figure = None
    peak_bytes: Figure = None
    error_y: Figure = None
    error_dx: Figure = None
    error_dgamma: Figure = None
    error_dbeta: Figure = None

    @property
    def shape(self) -> str:
        """As ``2048 x 1024``."""
        return f"{self.rows} x {self.width}"

    def errors(self) -> dict[str, float]:
        """The numbers among the errors, by quantity."""
        found = {name: getattr(self, f"error_{name}") for name in ("y", "dx", "dgamma", "dbeta")}
        return {name: value for name, value in found.items() if isinstance(value, float)}


TIMED = ("microseconds", "shortest_microseconds", "ratio", "gb_per_s", "copy_share", "saved_bytes_per_row", "peak_bytes")
ERRORS = ("error_y", "error_dx", "error_dgamma", "error_dbeta")


def without_figures(row: Row, why: str, *, issue: bool = False) -> Row:
    """The row with the reason in the place of every figure that belongs there."""
    names = ERRORS if row.what == "error" else (*TIMED, *(["issue_share"] if issue else []))
    if row.what == "error" and row.formula == "rmsnorm":
        names = ERRORS[:3]  # it has no beta
    if row.norm == "copy":
        names = tuple(name for name in names if name not in ("saved_bytes_per_row", "peak_bytes", "copy_share"))
    for name in names:
        setattr(row, name, why)
    return row


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """One line a row, below the names of its fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
            )
