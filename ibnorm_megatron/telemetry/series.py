"""A run's telemetry.jsonl as arrays: steps, sites, and figures over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Problem, UserError, nearest
from ..train.run_folder import RunFolder


@dataclass(frozen=True)
class Series:
    """What was measured in a run.

    Attributes:
        name: of the run: its folder, and its norm's label.
        steps: after which it was, ascending.
        sites: in the order data meets them.
        figures: by name, ``[sites, steps]``; nan where there is none.
        grad_norm: by part of the model, ``[steps]``.
    """

    name: str
    steps: np.ndarray
    sites: tuple[str, ...]
    figures: dict[str, np.ndarray]
    grad_norm: dict[str, np.ndarray]

    def has(self, figure: str) -> bool:
        """Whether some site has this figure somewhere."""
        return figure in self.figures and bool(np.isfinite(self.figures[figure]).any())

    def check(self, names: Sequence[str]) -> None:
        """Refuse what no site has.

        Raises:
            UserError: naming every such figure.
        """
        known = [name for name in self.figures if self.has(name)]
        problems = []
        for name in names:
            if name not in self.figures:
                problems.append(Problem("--figures", name, "there is no such figure", nearest(name, known)))
            elif not self.has(name):
                why = f"no norm of {self.name} has it"
                problems.append(Problem("--figures", name, why, f"choose among {', '.join(known)}"))
        if problems:
            raise UserError(*problems)


def load_series(path: Path) -> Series:
    """Read a run's telemetry, of a run that goes on as well.

    Raises:
        UserError: it is no run's folder, it has no telemetry, or a file is damaged.
    """
    folder = RunFolder(path)
    label = folder.read_card().get("norm", "")
    records = folder.read_telemetry()
    if not records:
        why = "nothing was measured inside its model yet"
        mend = "wait for the step that log.telemetry says, or train with log.telemetry above 0"
        raise UserError(Problem("the run", str(path), why, mend))
    try:
        name = path.resolve().name
        return _series(f"{name}: {label}" if label else name, records)
    except (KeyError, TypeError, ValueError, AttributeError):
        where = str(path / "telemetry.jsonl")
        raise UserError(Problem("the run folder's file", where, "it is damaged", "restore it or run again")) from None


def _series(name: str, records: Sequence[dict[str, Any]]) -> Series:
    sites = tuple(dict.fromkeys(site for record in records for site in record["sites"]))
    figures = dict.fromkeys(figure for record in records for of_site in record["sites"].values() for figure in of_site)
    parts = dict.fromkeys(part for record in records for part in record["grad_norm"])
    return Series(
        name,
        np.array([record["step"] for record in records], dtype=np.int64),
        sites,
        {
            figure: np.array([[_number(record["sites"].get(site, {}).get(figure)) for record in records] for site in sites])
            for figure in figures
        },
        {part: np.array([_number(record["grad_norm"].get(part)) for record in records]) for part in parts},
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
