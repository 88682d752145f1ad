"""One optimizer step: the same for a run, a verification and a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.random import _get_all_rng_states
from torch import Tensor

from ..data.batch import Batch
from ..model.norm_slots import norms_of
from ..parallel.context import own_tokens
from ..parallel.cpu_compat import LateRead, device
from ..parallel.engine import Engine, StepResult
from ..parallel.groups import Groups
from ..parallel.pipeline import Inputs
from .config import TrainConfig
from .guard import Guard
from .schedule import learning_rate


@dataclass(frozen=True)
class StepMetrics:
    """What a step did, left on the device until somebody asks: asking waits for the step.

    Attributes:
        lr: learning rate.
        tokens: labels that counted over all ranks, float64.
        skipped: whether weights and optimizer state are as before the step.
    """

    lr: float
    tokens: Tensor
    skipped: bool
    _nats: Tensor
    _grad_norm: Tensor | float
    _loss: float | None = None

    def loss(self) -> float:
        """Mean cross-entropy in nats over the labels of all ranks. Collective where no guard has summed it yet."""
        if self._loss is not None:
            return self._loss
        nats = self._nats.clone()
        dist.all_reduce(nats)
        return float(nats / self.tokens)

    def grad_norm(self) -> float:
        """Norm of the whole gradient before clipping."""
        return float(self._grad_norm)


@dataclass(frozen=True)
class Repeatable:
    """What it takes to compute a step's gradient once more.

    Attributes:
        batches: the model's keywords for this rank's micro-batches.
        weight: what the sum of losses was multiplied by.
        random: Megatron-core's random-number states before the step.
    """

    batches: Sequence[Inputs]
    weight: Tensor
    random: tuple[Any, ...]


class TrainStep:
    """Takes optimizer steps. Of one the engine reads the gradient's norm, and a guard the loss with it; nothing else is read
    back from the device but what ranks said.

    Args:
        train: learning rate and schedule.
        groups: this rank's place in the layout.
        engine: model and optimizer.
        before_update: called in every step where the gradient is complete and the weights are still those it is of.
        guard: judges steps; None lets all of them through that are finite.

    Attributes:
        last: the last step, if the guard was at the brink before it.
    """

    def __init__(
        self,
        train: TrainConfig,
        groups: Groups,
        engine: Engine,
        before_update: Callable[[], None] = lambda: None,
        guard: Guard | None = None,
    ) -> None:
        self._train, self._groups, self._engine, self._before_update = train, groups, engine, before_update
        self._guard = guard
        self._gathered = [buffer for norm in norms_of(engine.module).values() for buffer in norm.buffers()]
        self.last: Repeatable | None = None

    def __call__(self, step: int, batches: Sequence[Batch], said: Sequence[float] = ()) -> tuple[StepMetrics, list[float]]:
        """Take step ``step``, counted from 1, on this data-parallel rank's micro-batches.

        Returns:
            What it did, and the sums over all ranks of the numbers that each has ``said``, of which all have as many.
        """
        own = [own_share(batch, self._groups) for batch in batches]
        # The mean is over all labels of the step, wherever they are: one message before the backward pass counts them.
        labels = sum(batch.num_tokens for batch in own) * self._groups.counts
        counts = torch.tensor([labels, *said], dtype=torch.float64, device=device())
        dist.all_reduce(counts)
        heard = LateRead(counts[1:])
        lr = learning_rate(self._train, step)
        self._engine.set_learning_rate(lr)
        given, weight = [inputs(batch) for batch in own], counts[0].reciprocal().float()
        at_the_brink = self._guard is not None and self._guard.at_the_brink
        self.last = Repeatable(given, weight, _get_all_rng_states()) if at_the_brink else None
        gathered = [buffer.clone() for buffer in self._gathered]
        nats = self._engine.forward_backward(given, weight) * self._groups.counts
        self._before_update()
        result, loss = self._update(nats, counts[0])
        if result.skipped:  # statistics of such a step would outlast it
            for buffer, before in zip(self._gathered, gathered, strict=True):
                buffer.copy_(before)
        metrics = StepMetrics(lr, counts[0], result.skipped, nats, result.grad_norm, loss)
        return metrics, heard.values()

    def _update(self, nats: Tensor, labels: Tensor) -> tuple[StepResult, float | None]:
        """Let the engine take its step if the guard does; and the loss over all labels, if the guard has asked for it."""
        guard = self._guard
        if guard is None or not guard.active:
            result, loss = self._engine.step(), None
        else:

            def judge(norm: Tensor) -> bool:
                # The first rank's norm, so that no rank ever decides from other bits than the rest.
                own = norm.to(nats).reshape(()) if self._groups.first else torch.zeros_like(nats)
                sums = torch.stack([nats, own])
                dist.all_reduce(sums)
                mean, norm_of_first = torch.stack([sums[0] / labels, sums[1]]).tolist()  # one wait for the device
                return guard.judge(mean, norm_of_first)

            result = self._engine.step(judge)
            loss = guard.loss
        if guard is not None:
            guard.count(skipped=result.skipped, searching=result.searching)
        return result, loss


def own_share(batch: Batch, groups: Groups) -> Batch:
    """The tokens of every sequence that this rank has. Which documents there are every rank knows of the whole sequence."""
    own = batch.map(lambda tensor: own_tokens(tensor, groups.context, dim=1))
    return replace(own, documents=batch.documents)


def inputs(batch: Batch) -> dict[str, Tensor]:
    """Keywords of the model's forward, on the device; documents stay on the host, which has to count them."""
    on_device = vars(batch.map(lambda tensor: tensor.to(device(), non_blocking=True)))
    return {name: tensor for name, tensor in (on_device | {"documents": batch.documents}).items() if tensor is not None}
