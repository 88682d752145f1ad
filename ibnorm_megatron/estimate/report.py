"""What ``ibnorm estimate`` shows: a table of memory, one of time, one of layouts, and what all of it assumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import Problem
from ..parallel.config import Recompute
from ..printing import table as new_table
from . import speed as of_speed
from .activations import Activations
from .layouts import Proposal
from .memory import FRAGMENTED, PROCESS_BYTES, Memory, needed
from .speed import Cluster, Speed

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class UnderNorm:
    """What a config takes with certain norms: memory, and time where that is estimated."""

    memory: Memory
    speed: Speed | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"memory": self.memory.to_dict(), "speed": self.speed and self.speed.to_dict()}


@dataclass(frozen=True)
class Estimate:
    """Everything that was found.

    Attributes:
        config: the run's.
        world_size: processes.
        memory: of the rank that holds the most.
        recomputed: the same under each kind of recomputation.
        norms: both with the config's own norms, which come first, and with others, by their labels.
        cluster: the GPUs; None for a CPU.
        speed: of a step; None for a CPU.
        room: bytes of a GPU; None for a CPU.
        reserve: bytes of it that no tensor has.
        refused: why the config's own layout cannot run on so many; memory and speed are then of one copy of the model.
        proposals: layouts that fit, the quickest first; None where nobody asked.
    """

    config: Config
    world_size: int
    memory: Memory
    recomputed: dict[Recompute, Memory]
    norms: dict[str, UnderNorm]
    cluster: Cluster | None = None
    speed: Speed | None = None
    room: int | None = None
    reserve: int = 0
    refused: tuple[Problem, ...] = ()
    proposals: list[Proposal] | None = None

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.config.train.steps * self.config.train.tokens_per_step()

    def to_dict(self) -> dict[str, Any]:
        """Every number, as ``--json`` writes it."""
        cluster = self.cluster
        return {
            "format": "ibnorm estimate",
            "config": self.config.to_dict(),
            "world_size": self.world_size,
            "parameters": sum(self.config.model.num_params().values()),
            "memory": self.memory.to_dict(),
            "memory_by_recompute": {name: found.to_dict() for name, found in self.recomputed.items()},
            "norms": {label: found.to_dict() for label, found in self.norms.items()},
            "gpu": None
            if cluster is None
            else {
                "name": cluster.gpu.name,
                "bytes": self.room,
                "reserve": self.reserve,
                "per_node": cluster.per_node,
                "efficiency": cluster.efficiency,
                "network": cluster.network or cluster.gpu.network,
            },
            "fits": None if self.room is None else needed(self.memory.peak, self.reserve) <= self.room,
            "speed": self.speed and self.speed.to_dict(),
            "days": self.speed and self.speed.days(self.tokens),
            "refused": [str(problem) for problem in self.refused],
            "proposals": None if self.proposals is None else [proposal.to_dict() for proposal in self.proposals],
        }

    def tables(self, most: int) -> Iterator[Table]:
        """To print; of proposals so many at most."""
        yield self._memory()
        yield self._recomputed()
        yield self._norms()
        if self.speed is not None:
            yield self._speed(self.speed)
        if self.proposals is not None and self.cluster is not None:
            yield self._proposals(self.proposals[:most])

    def _memory(self) -> Table:
        layout = self.config.parallel
        ranks = f"{self.world_size} x {self.cluster.gpu.name}" if self.cluster else f"{self.world_size} on CPUs"
        where = f"stage {self.memory.stage} of {layout.pipeline}, " if layout.pipeline > 1 else ""
        unit, shown = self._unit()
        table = new_table(f"memory of a rank, {ranks}", "what", unit, "share")
        for name, size in self.memory.parts.items():
            table.add_row(name, shown(size), f"{100 * size / self.memory.peak:.1f} %")
            if name == "activations" and self.memory.norms:
                table.add_row("  of which norms keep", shown(self.memory.norms), "")
        table.caption = f"{where}the fullest moment of a step: {self.memory.moment}"
        table.add_section()
        table.add_row("tensors in all", shown(self.memory.peak), "")
        if self.room is None:
            table.add_row("with the process itself", shown(self.memory.peak + PROCESS_BYTES), "")
        else:
            wanted = needed(self.memory.peak, self.reserve)
            fits = "fits into" if wanted <= self.room else "does not fit into"
            table.add_row(f"with reserve: {fits} {_gib(self.room)} GiB", shown(wanted), f"{100 * wanted / self.room:.0f} %")
        if self.memory.host:
            table.add_row("on the host, for each rank", shown(self.memory.host), "")
        return table

    def _unit(self) -> tuple[str, Callable[[float], str]]:
        """A unit in which this rank's memory is no row of zeros."""
        return ("GiB", _gib) if self.memory.peak >= 2**30 else ("MiB", lambda size: f"{size / 2**20:,.1f}")

    def _recomputed(self) -> Table:
        unit, shown = self._unit()
        heads = (f"tensors in all, {unit}", "activations", "of norms")
        table = new_table("with and without recomputation", "parallel.recompute", *heads)
        for name, found in self.recomputed.items():
            own = " (the config's)" if name == self.config.parallel.recompute else ""
            table.add_row(f"{name}{own}", shown(found.peak), shown(found.activations), shown(found.norms))
        table.caption = "activations as a forward pass leaves them"
        return table

    def _norms(self) -> Table:
        unit, shown = self._unit()
        own, timed = next(iter(self.norms)), self.speed is not None
        timed_heads = ("norms, s a step", "share of step") if timed else ()
        heads = (f"tensors in all, {unit}", "activations", "of norms, MiB", *timed_heads)  # they differ by bytes a row
        table = new_table("norm by norm", "model.norm", *heads)
        for label, found in self.norms.items():
            held = found.memory
            row = [f"{label}{' (own)' if label == own else ''}"]
            row += [shown(held.peak), shown(held.activations), f"{held.norms / 2**20:,.2f}"]
            if found.speed is not None:
                row += [f"{found.speed.norms:.3f}", f"{100 * found.speed.norms / found.speed.step:.1f} %"]
            table.add_row(*row)
        table.caption = "each at all places of the config's own"
        return table

    def _speed(self, found: Speed) -> Table:
        assert self.cluster is not None
        table = new_table("time of a step, by formula", "what", "seconds", "share")
        names = {
            "matrices": "matrix products and attention",
            "norms": "norms",
            "tensor": "messages of tensor ranks",
            "context": "messages of context ranks",
            "pipeline": "messages of pipeline stages",
            "bubble": "pipeline bubble",
            "gradients": "gradients and weights, not hidden",
            "optimizer": "optimizer",
        }
        for name, shown in names.items():
            if seconds := getattr(found, name):
                table.add_row(shown, f"{seconds:.3f}", f"{100 * seconds / found.step:.1f} %")
        table.add_section()
        table.add_row("step", f"{found.step:.3f}", "")
        table.add_row("tokens/s", f"{found.tokens_per_second:,.0f}", "")
        table.add_row("MFU", f"{100 * found.mfu:.1f} %", "")
        table.add_row(f"days of {self.tokens / 1e9:,.1f}B tokens", f"{found.days(self.tokens):,.1f}", "")
        return table

    def _proposals(self, shown: list[Proposal]) -> Table:
        assert self.cluster is not None and self.room is not None
        title = f"layouts that fit {self.world_size} x {self.cluster.gpu.name} of {_gib(self.room)} GiB"
        heads = "tensor, pipeline, context, data, ZeRO, recompute, micro-batch, GiB, step s, tokens/s, MFU, days"
        table = new_table(title, *heads.split(", "))
        for proposal in shown:
            layout, found = proposal.config.parallel, proposal.speed
            table.add_row(
                f"{layout.tensor}{' + sequence' if layout.sequence_parallel else ''}",
                str(layout.pipeline),
                str(layout.context),
                str(layout.data(self.world_size)),
                f"{layout.zero_stage}{' offload' if layout.offload_optimizer else ''}",
                layout.recompute,
                str(proposal.config.train.micro_batch_size),
                _gib(needed(proposal.memory.peak, self.reserve)),
                f"{found.step:.2f}",
                f"{found.tokens_per_second:,.0f}",
                f"{100 * found.mfu:.1f} %",
                f"{found.days(self.tokens):,.1f}",
            )
        return table

    def notes(self) -> Iterator[str]:
        """What was assumed, and what was left out."""
        for problem in self.refused:
            yield f"the config's own layout cannot run on {self.world_size}: {problem}"
        if self.proposals:
            yield f"the first of them: {' '.join(self.proposals[0].overrides())}"
        said = Activations(self.config, self.world_size, 0, self.memory.device).unsaid()
        if said:
            yield f"{', '.join(said)} does not say what it keeps: counted as its input and 16 bytes a row"
        if self.cluster is None:
            yield "time on a CPU is not estimated: ibnorm lab plan and ibnorm overhead measure steps"
            return
        yield (
            f"assumed: {100 * self.cluster.efficiency:.0f} % of the peak in matrix products (--efficiency), "
            f"{100 * of_speed.LINK_SHARE:.0f} % of links, {100 * of_speed.MEMORY_SHARE:.0f} % of memory bandwidth, "
            f"{(self.cluster.network or self.cluster.gpu.network) / 1e9:.0f} GB/s of network a GPU (--network)"
        )
        yield (
            f"{_gib(self.reserve)} GiB of a GPU are for CUDA and NCCL (--reserve), {100 * FRAGMENTED:.0f} % between blocks; "
            "memory was checked on CPUs, time against published runs: docs/estimate.md"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}" if size < 100 * 2**30 else f"{size / 2**30:,.0f}"
