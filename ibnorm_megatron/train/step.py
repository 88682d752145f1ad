"""One optimizer step: the same for a run, a verification and a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.batch import Batch
from ..parallel.context import own_tokens
from ..parallel.cpu_compat import LateRead, device
from ..parallel.engine import Engine
from ..parallel.groups import Groups
from .config import TrainConfig
from .schedule import learning_rate


@dataclass(frozen=True)
class StepMetrics:
    """What a step did, left on the device until somebody asks: asking waits for the step, and is collective.

    Attributes:
        lr: learning rate.
        tokens: labels that counted over all ranks, float64.
        skipped: whether fp16 skipped the optimizer's step.
    """

    lr: float
    tokens: Tensor
    skipped: bool
    _nats: Tensor
    _grad_norm: Tensor | float

    def loss(self) -> float:
        """Mean cross-entropy in nats over the labels of all ranks. Collective."""
        nats = self._nats.clone()
        dist.all_reduce(nats)
        return float(nats / self.tokens)

    def grad_norm(self) -> float:
        """Norm of the whole gradient before clipping."""
        return float(self._grad_norm)


class TrainStep:
    """Takes optimizer steps. Between two of them nothing is read back from the device but the wish to stop.

    Args:
        train: learning rate and schedule.
        groups: this rank's place in the layout.
        engine: model and optimizer.
        before_update: called in every step where the gradient is complete and the weights are still those it is of.
    """

    def __init__(
        self, train: TrainConfig, groups: Groups, engine: Engine, before_update: Callable[[], None] = lambda: None
    ) -> None:
        self._train, self._groups, self._engine, self._before_update = train, groups, engine, before_update

    def __call__(self, step: int, batches: Sequence[Batch], stop: bool = False) -> tuple[StepMetrics, bool]:
        """Take step ``step``, counted from 1, on this data-parallel rank's micro-batches.

        Returns:
            What it did, and whether any rank has said ``stop``.
        """
        own = [own_share(batch, self._groups) for batch in batches]
        # The mean is over all labels of the step, wherever they are: one message before the backward pass counts them.
        labels = sum(batch.num_tokens for batch in own) * self._groups.counts
        counts = torch.tensor([labels, float(stop)], dtype=torch.float64, device=device())
        dist.all_reduce(counts)
        asked = LateRead(counts[1])
        lr = learning_rate(self._train, step)
        self._engine.set_learning_rate(lr)
        nats = self._engine.forward_backward([inputs(batch) for batch in own], counts[0].reciprocal().float())
        self._before_update()
        result = self._engine.step()
        metrics = StepMetrics(lr, counts[0], result.skipped, nats * self._groups.counts, result.grad_norm)
        return metrics, asked.value() > 0


def own_share(batch: Batch, groups: Groups) -> Batch:
    """The tokens of every sequence that this rank has."""
    return batch.map(lambda tensor: own_tokens(tensor, groups.context, dim=1))


def inputs(batch: Batch) -> dict[str, Tensor]:
    """Keywords of the model's forward, on the device; no ``documents`` where the batch has none."""
    moved = vars(batch.map(lambda tensor: tensor.to(device(), non_blocking=True)))
    return {name: tensor for name, tensor in moved.items() if tensor is not None}
