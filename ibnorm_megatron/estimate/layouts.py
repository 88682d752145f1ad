"""Layouts that a number of GPUs could train a model in: all that the stack accepts and memory admits, the quickest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import log
from typing import Any

from ..config import Config, problems_between
from ..parallel.config import Layout, Recompute
from .memory import Memory, memory, needed
from .speed import Cluster, Speed, speed

#: Sequences of a micro-batch that are tried.
_MICRO_BATCHES = (1, 2, 4, 8, 16, 32)

#: Relative difference of times below which they count as equal.
_SAME = 0.01

#: Sequences shorter than this are not spread over context ranks.
_LONG = 8192


@dataclass(frozen=True)
class Proposal:
    """A layout with what it takes.

    Attributes:
        config: the run's, with this layout and its micro-batch.
        memory: of the rank that holds the most.
        speed: of a step.
    """

    config: Config
    memory: Memory
    speed: Speed

    def overrides(self) -> list[str]:
        """What to write behind the config on a command line."""
        layout, train = self.config.parallel, self.config.train
        values = {
            "tensor": layout.tensor,
            "sequence": str(layout.sequence).lower(),
            "pipeline": layout.pipeline,
            "context": layout.context,
            "zero_stage": layout.zero_stage,
            "recompute": layout.recompute,
            "offload_optimizer": str(layout.offload_optimizer).lower(),
        }
        return [
            *(f"parallel.{name}={value}" for name, value in values.items()),
            f"train.micro_batch_size={train.micro_batch_size}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"overrides": self.overrides(), "memory": self.memory.to_dict(), "speed": self.speed.to_dict()}


def proposals(config: Config, gpus: int, room: int, cluster: Cluster, reserve: int) -> list[Proposal]:
    """The quickest of every choice of tensor, pipeline and context ranks, by estimated time.

    Args:
        config: the run's; its own layout and micro-batch are replaced, its ``parallel.deepspeed`` is kept.
        gpus: processes, all of which are used.
        room: bytes of a GPU.
        cluster: the GPUs.
        reserve: bytes of each that no tensor may have.
    """
    best: dict[tuple[int, int, int], Proposal] = {}
    for offload in (False, True):
        for candidate in _candidates(config, gpus, cluster.per_node, offload):
            held = memory(candidate, gpus)
            if needed(held.peak, reserve) > room:
                continue
            found = Proposal(candidate, held, speed(candidate, gpus, cluster))
            layout = candidate.parallel
            key = (layout.tensor, layout.pipeline, layout.context)
            if key not in best or _order(found) < _order(best[key]):
                best[key] = found
        if best:  # a host's memory is for what fits nowhere else
            break
    return sorted(best.values(), key=_order)


def _order(proposal: Proposal) -> tuple[int, int, int]:
    """Times within a percent are the same: no formula here is better. Then the lower ZeRO stage, then memory."""
    return round(log(proposal.speed.step) / _SAME), proposal.config.parallel.zero_stage, proposal.memory.peak


def _candidates(config: Config, gpus: int, per_node: int, offload: bool) -> Iterator[Config]:
    """Every config with another layout that nothing in the stack refuses."""
    model, train = config.model, config.train
    tensors = [size for size in _divisors(per_node) if gpus % size == 0]
    pipelines = [size for size in _divisors(model.num_layers) if gpus % size == 0]
    contexts = [size for size in (1, 2, 4, 8) if gpus % size == 0 and (size == 1 or train.sequence_length >= _LONG)]
    stages = (1, 2, 3) if train.precision != "fp32" else (0, 1, 2, 3)
    recomputed: tuple[Recompute, ...] = ("none", "selective", "full")
    for tensor, pipeline, context in product(tensors, pipelines, contexts):
        ranks = tensor * pipeline * context
        if gpus % ranks or train.global_batch_size % (gpus // ranks):
            continue
        share = train.global_batch_size // (gpus // ranks)
        sizes = [size for size in _MICRO_BATCHES if share % size == 0]
        for zero, recompute in product(stages, recomputed):
            if offload and zero == 0:
                continue
            layout = Layout(
                tensor=tensor,
                sequence=tensor > 1,
                pipeline=pipeline,
                context=context,
                context_method=config.parallel.context_method if context > 1 else "all_gather",
                recompute=recompute,
                zero_stage=zero,
                offload_optimizer=offload,
                deepspeed=config.parallel.deepspeed,
            )
            for number, size in enumerate(sizes):
                changed = {"parallel": layout, "train": train.model_copy(update={"micro_batch_size": size})}
                candidate = config.model_copy(update=changed)
                if number == 0 and problems_between(candidate, gpus):
                    break  # no size of a micro-batch mends a layout
                yield candidate


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
