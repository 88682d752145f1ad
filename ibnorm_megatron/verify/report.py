"""What a verification found: rows, the table of them, and everything as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..files import write_json
from .layouts import Case
from .messages import Finding, Served

if TYPE_CHECKING:
    from rich.table import Table

#: Marks a file as ours, so that another of the user's is never overwritten.
_FORMAT = "ibnorm verify"


@dataclass(frozen=True)
class Row:
    """One layout.

    Attributes:
        name: of the layout.
        processes: that it ran on.
        overrides: that made it.
        findings: every comparison.
        seconds: that it took.
        losses: of its steps.
        grad_norms: of its steps.
        error: why nothing could be compared, or "".
        details: tracebacks of the ranks.
        device: that the ranks ran on.
    """

    name: str
    processes: int
    overrides: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    error: str = ""
    details: str = ""
    device: str = ""

    @staticmethod
    def of(case: Case, overrides: Sequence[str], served: Served) -> Row:
        """The row of a layout that ran."""
        return Row(
            case.name,
            case.processes,
            tuple(overrides),
            served.findings,
            served.seconds,
            served.losses,
            served.grad_norms,
            device=served.device,
        )

    @staticmethod
    def failed(case: Case, error: str, details: str, seconds: float = 0.0) -> Row:
        """The row of one that did not."""
        return Row(case.name, case.processes, seconds=seconds, error=error, details=details)

    @property
    def kept(self) -> bool:
        """Whether it ran and everything is within its bound."""
        return not self.error and all(finding.kept for finding in self.findings)

    @property
    def worst(self) -> Finding | None:
        """What to look at first: the farthest from its bound, of :attr:`broken` if there are any, or else of all."""
        return max(self.broken or reversed(self.findings), key=lambda finding: finding.excess, default=None)

    @property
    def broken(self) -> list[Finding]:
        """What failed in the first kind of comparison that did.

        They come in the order from causes to effects: where a gradient of the first step is wrong, every gradient and weight
        after it follows, and says nothing.
        """
        failed = [finding for finding in self.findings if not finding.kept]
        return [finding for finding in failed if finding.what == failed[0].what]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: every comparison of every parameter, and null for what is not a finite number."""
        numbers = [_entry(finding) for finding in self.findings if not finding.parameter]
        parameters: dict[str, Any] = {}
        for finding in self.findings:
            if finding.parameter:
                of_one = parameters.setdefault(finding.parameter, {"site": finding.site, "compared": []})
                of_one["compared"].append(_entry(finding))
        worst = self.worst
        return {
            "name": self.name,
            "processes": self.processes,
            "device": self.device,
            "overrides": list(self.overrides),
            "kept": self.kept,
            "error": self.error,
            "details": self.details,
            "seconds": round(self.seconds, 3),
            "losses": [_finite(loss) for loss in self.losses],
            "grad_norms": [_finite(norm) for norm in self.grad_norms],
            "worst": worst and {"parameter": worst.parameter, "site": worst.site, **_entry(worst)},
            "broken": [finding.parameter for finding in self.broken if finding.parameter],
            "model": numbers,
            "parameters": parameters,
        }


def _entry(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.what,
        "difference": _finite(finding.difference),
        "bound": _finite(finding.bound),
        "kept": finding.kept,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Report:
    """All rows, and what they were made from.

    Attributes:
        path: of the config.
        overrides: of it.
        config: the plain values that every layout's overrides were laid over.
        notes: what was changed of the config's model and batch.
        steps: optimizer steps that were compared.
        rows: in the order asked for.
        left_out: layouts of the default list that this model cannot have, and why.
        seconds: for everything.
    """

    path: str
    overrides: list[str]
    config: dict[str, Any]
    notes: list[str]
    steps: int
    rows: list[Row]
    left_out: dict[str, str]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 where every layout keeps every bound, else 1."""
        return 0 if all(row.kept for row in self.rows) else 1

    def table(self) -> Table:
        """A line a layout."""
        from rich.table import Table

        table = Table(title=f"{self.path}, {self.steps} steps, against one process in fp32", title_justify="left")
        table.add_column("")
        table.add_column("layout", no_wrap=True)
        table.add_column("ranks", justify="right")
        table.add_column("difference", justify="right", no_wrap=True)
        table.add_column("bound", justify="right", no_wrap=True)
        table.add_column("of what, where")
        table.add_column("s", justify="right")
        for row in self.rows:
            mark = "[green]kept[/]" if row.kept else "[bold red]BROKEN[/]"
            table.add_row(mark, row.name, str(row.processes), *_cells(row), f"{row.seconds:.1f}")
        for name, why in self.left_out.items():
            table.add_row("left out", name, "", "", "", _plain(why), "")
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        libraries = {name: version(name) for name in ("torch", "megatron-core", "deepspeed")}
        return {
            "format": _FORMAT,
            "versions": {"ibnorm_megatron": __version__, "python": platform.python_version(), **libraries},
            "config_file": self.path,
            "overrides": self.overrides,
            "config": self.config,
            "changed": self.notes,
            "steps": self.steps,
            "kept": self.exit_code == 0,
            "seconds": round(self.seconds, 3),
            "layouts": [row.to_dict() for row in self.rows],
            "left_out": self.left_out,
        }


def _cells(row: Row) -> tuple[str, str, str]:
    if row.error:
        return "", "", _plain(row.error)
    worst = row.worst
    assert worst is not None
    where = f"{worst.site} ({worst.parameter})" if worst.parameter and not worst.kept else worst.site
    others = len(row.broken) - 1
    also = f", and {others} more" if others > 0 else ""
    sums = [f for f in row.findings if not f.kept and not f.parameter and f.what.endswith("of step 1") and f is not worst]
    also += "".join(f"; {finding.what} {finding.difference:.1e}" for finding in sums)
    return f"{worst.difference:.1e}", f"{worst.bound:.1e}", _plain(f"{worst.what}{where and f': {where}'}{also}")


def _plain(text: str) -> str:
    """Text that rich must not read as markup."""
    from rich.markup import escape

    return escape(text)


def write_report(path: Path, report: Report) -> None:
    """Write the report, whole or not at all, over an earlier one."""
    write_json(path, report.to_dict())
