"""What was found: a table with formula and measurement side by side, what its columns are, and everything as JSON."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import Config
from ..norms.cost import Cost
from .formula import Formula, to_dict

if TYPE_CHECKING:
    from rich.table import Table

    from .measure import Measured


@dataclass(frozen=True)
class Row:
    """One norm: its label, its cost by formula, and what was measured."""

    norm: str
    formula: Formula
    measured: Measured


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        device: a GPU's name, or a CPU's.
        threads: of PyTorch on the CPU.
        clock: what steps were timed by.
    """

    device: str
    threads: int
    clock: str


def machine() -> Machine:
    """This one."""
    import torch

    from ..parallel.cpu_compat import on_gpu
    from .measure import computes_alone

    device = torch.cuda.get_device_name() if on_gpu() else f"CPU, {platform.machine()}"
    return Machine(device, torch.get_num_threads(), "CPU seconds of the process" if computes_alone() else "wall clock")


@dataclass(frozen=True)
class Report:
    """All rows, and what they were made from.

    Attributes:
        path: of the config.
        overrides: of it.
        values: the config's, without its run folder and logs.
        machine: that trained.
        config: with its own norm.
        rows: the config's own norm first.
        seconds: for everything.
    """

    path: str
    overrides: list[str]
    values: dict[str, Any]
    machine: Machine
    config: Config
    rows: list[Row]
    seconds: float

    def ratios(self, row: Row) -> list[float]:
        """Of the row's step to the first row's, in every round."""
        pairs = zip(row.measured.seconds, self.rows[0].measured.seconds, strict=True)
        return [own / first for own, first in pairs]

    def table(self) -> Table:
        """A line a norm: least and measured side by side."""
        from rich.markup import escape
        from rich.table import Table

        tokens = self.config.train.tokens_per_step()
        title = escape(
            f"{' '.join([self.path, *self.overrides])}: what the norms cost a token, and a step of {tokens:,} tokens"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("norm")
        for head in _HEADS:
            table.add_column(head, justify="right", no_wrap=True)
        for row in self.rows:
            by_formula, measured = row.formula, row.measured
            ratios = sorted(self.ratios(row))
            low, high = _quartiles(ratios)
            table.add_row(
                escape(row.norm),
                _total(by_formula.flops),
                "-" if by_formula.share is None else f"{100 * by_formula.share:.2f} %",
                _total(by_formula.bytes_moved),
                f"{measured.counted.bytes.total / tokens:,.0f}",
                "-" if by_formula.saved_bytes is None else f"{by_formula.saved_bytes:,}",
                f"{measured.counted.saved_bytes / tokens:,.0f}",
                f"{measured.counted.own_bytes / tokens:,.0f}",
                f"{measured.counted.operations.total:,}",
                f"{100 * measured.share.forward:.1f} + {100 * measured.share.backward:.1f} %",
                f"{1e3 * statistics.median(measured.seconds):.1f}",
                f"{statistics.median(ratios):.3f}",
                f"{low:.2f} to {high:.2f}",
            )
        return table

    def notes(self) -> Iterator[str]:
        """What the columns are."""
        first, rounds = self.rows[0], len(self.rows[0].measured.seconds)
        parallel, compiled = self.config.parallel, self.config.model.compile
        yield f"all but steps and operations are of a token, forward and backward together; {first.norm} is the config's own"
        yield "FLOPs: by formula; their share is of the model's, 6 a weight and 12 L h s, in which norms are not counted"
        yield "moved: by formula x, y, dy, dx and statistics, once; measured, inputs and outputs of every operation of PyTorch"
        yield "saved: by formula x and statistics; measured, what autograd keeps for norms; alone, what nothing else keeps too"
        yield "operations: PyTorch's, in all norms of a step; a fused kernel is one"
        yield "share: of a step's time, forward + backward, under the profiler, which slows many small operations most"
        threads = f"{self.machine.threads} thread{'' if self.machine.threads == 1 else 's'}"
        yield f"step: median of {rounds}, {self.machine.clock}; on {self.machine.device}, {threads}"
        yield f"to {first.norm}: median and quartiles of the ratio within a round, in which every model takes one step"
        if any(row.formula.flops is None or row.formula.bytes_moved is None for row in self.rows):
            yield "-: a norm that does not say what it costs"
        if compiled != "none":
            yield f"model.compile: {compiled} in the steps that are timed; all else is measured of norms that are not compiled"
        if parallel.recompute == "full":
            yield "parallel.recompute: what is saved is that of one layer at a time, and norms run forward twice"

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        libraries = {name: version(name) for name in ("torch", "megatron-core", "deepspeed")}
        return {
            "format": "ibnorm overhead",
            "versions": {"ibnorm_megatron": __version__, "python": platform.python_version(), **libraries},
            "machine": asdict(self.machine),
            "config_file": self.path,
            "overrides": self.overrides,
            "config": self.values,
            "tokens_a_step": self.config.train.tokens_per_step(),
            "model_flops_a_token": self.config.model.flops_per_token(self.config.train.sequence_length),
            "seconds": round(self.seconds, 3),
            "norms": [self._entry(row) for row in self.rows],
            "notes": list(self.notes()),
        }

    def _entry(self, row: Row) -> dict[str, Any]:
        counted, tokens, ratios = row.measured.counted, self.config.train.tokens_per_step(), self.ratios(row)
        low, high = _quartiles(ratios)
        measured = {
            "operations_a_step": counted.operations._asdict(),
            "bytes_moved_a_token": {name: size / tokens for name, size in counted.bytes._asdict().items()},
            "saved_bytes_a_token": counted.saved_bytes / tokens,
            "saved_bytes_alone_a_token": counted.own_bytes / tokens,
            "share_of_step": asdict(row.measured.share),
            "step_seconds": row.measured.seconds,
            "to_first": {"median": statistics.median(ratios), "quartiles": [low, high]},
        }
        return {"norm": row.norm, "formula": to_dict(row.formula), "measured": measured}


_HEADS = (
    "FLOPs",
    "of the\nmodel's",
    "bytes moved\nby formula",
    "\nmeasured",
    "bytes saved\nby formula",
    "\nmeasured",
    "\nalone",
    "operations\na step",
    "share of\na step",
    "step,\nms",
    "to the\nfirst",
    "\nquartiles",
)


def _total(cost: Cost | None) -> str:
    return "-" if cost is None else f"{cost.total:,}"


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
