"""Where numbers stop being finite: a step's forward and backward pass once more, with an eye on every module and weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.random import _fork_rng, _set_all_rng_states
from torch import Tensor, nn

from ..model.compiled import uncompiled
from ..model.norm_slots import norms_of
from ..parallel.engine import Engine
from ..parallel.groups import Groups
from .step import Repeatable


@dataclass(frozen=True, order=True)
class Output:
    """A module's output that is not finite. Ordered as a forward pass goes.

    Attributes:
        micro_batch: of the step, from 0.
        stage: pipeline stage, from 0.
        order: how many modules of that stage had given an output before in this micro-batch.
        rank: in the world.
        module: its name in the whole model; a norm's is ``norm`` and its site.
    """

    micro_batch: int
    stage: int
    order: int
    rank: int
    module: str


@dataclass
class Diagnosis:
    """What was found, over all ranks.

    Attributes:
        output: the first that was not finite, if any was.
        gradient: the first parameter, in the model's order, whose gradient was not finite, by its name in the whole model.
        weight: the first parameter that is not finite itself.
        largest: of every norm, by site, the largest absolute value that went in over all micro-batches; None if not finite.
    """

    output: Output | None = None
    gradient: str | None = None
    weight: str | None = None
    largest: dict[str, float | None] = field(default_factory=dict)

    def __str__(self) -> str:
        said = []
        if self.weight is not None:
            said.append(f"the weight {self.weight} is not finite itself")
        if self.output is not None:
            said.append(f"the first output that is not finite is that of {self.output.module} on rank {self.output.rank}")
        if self.gradient is not None:
            said.append(f"the first such gradient is that of {self.gradient}")
        return ", ".join(said) or "computed once more, all of it is finite"

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def diagnose(engine: Engine, groups: Groups, step: Repeatable) -> Diagnosis:
    """Compute a step's gradient once more and look where it goes wrong. Collective.

    Nothing of it stays: weights, optimizer state, random numbers, buffers of norms and counts are as before.
    """
    module: Any = engine.module
    watch = _Watch(groups)
    parameters: dict[str, nn.Parameter] = module.logical_parameters()
    weights = [name for name, parameter in parameters.items() if not _finite(getattr(parameter, "ds_tensor", parameter))]
    with ExitStack() as within:
        within.enter_context(_fork_rng())
        within.enter_context(_buffers_kept(module))
        within.enter_context(uncompiled())  # compiled layers would not see the hooks
        within.callback(engine.discard)
        _set_all_rng_states(*step.random)
        with watch.on(module):
            engine.forward_backward(step.batches, step.weight)
        gradients = [name for name, parameter in parameters.items() if not _finite(engine.gradient(parameter))]
    return _together(watch, gradients, weights, groups)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Norms may gather statistics in buffers as they run."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


class _Watch:
    """Hooks on every module of a rank, and what they saw."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._micro_batch, self._order = -1, 0
        self.first: Output | None = None
        self.largest: dict[str, float] = {}

    @contextmanager
    def on(self, module: Any) -> Iterator[None]:
        """Watch a model's forward passes."""
        handles = [module.register_forward_pre_hook(self._next)]
        handles += [child.register_forward_hook(self._output(name)) for name, child in module.logical_modules().items()]
        handles += [norm.register_forward_pre_hook(self._input(str(site))) for site, norm in norms_of(module).items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _next(self, module: nn.Module, arguments: Any) -> None:
        self._micro_batch, self._order = self._micro_batch + 1, 0

    def _output(self, name: str) -> Callable[..., None]:
        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            self._order += 1
            if self.first is None and not all(map(_finite, _tensors(output))):
                stage, rank = self._groups.stage, self._groups.rank
                self.first = Output(self._micro_batch, stage, self._order, rank, name)

        return look

    def _input(self, site: str) -> Callable[..., None]:
        def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found = float(arguments[0].detach().abs().max())
            self.largest[site] = _larger(self.largest.get(site, 0.0), found)

        return look


def _tensors(output: Any) -> Iterator[Tensor]:
    if torch.is_tensor(output) and output.is_floating_point():
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def _larger(a: float, b: float) -> float:
    """The larger of two, or nan if one of them is no number."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _together(watch: _Watch, gradients: list[str], weights: list[str], groups: Groups) -> Diagnosis:
    """What all ranks found, the same on each."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (groups.stage, watch.first, gradients, weights, watch.largest))
    found = Diagnosis()
    outputs = [first for _, first, *_ in everyone if first is not None]
    found.output = min(outputs) if outputs else None
    # A rank lists its own in the model's order, and an earlier stage has what comes earlier.
    for _, _, of_gradients, of_weights, largest in sorted(everyone, key=lambda of_rank: of_rank[0]):
        found.gradient = found.gradient or next(iter(of_gradients), None)
        found.weight = found.weight or next(iter(of_weights), None)
        for site, value in largest.items():
            known = found.largest.get(site, 0.0)
            finite = known is not None and math.isfinite(value)
            found.largest[site] = max(known, value) if finite else None  # type: ignore[type-var]
    return found
