"""One optimizer step: the same for a run, a verification and a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    """Takes optimizer steps. Between two of them nothing is read back from the device but what ranks said.

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
        nats = self._engine.forward_backward([inputs(batch) for batch in own], counts[0].reciprocal().float())
        self._before_update()
        result = self._engine.step()
        metrics = StepMetrics(lr, counts[0], result.skipped, nats * self._groups.counts, result.grad_norm)
        return metrics, heard.values()


def own_share(batch: Batch, groups: Groups) -> Batch:
    """The tokens of every sequence that this rank has. Which documents there are every rank knows of the whole sequence."""
    own = batch.map(lambda tensor: own_tokens(tensor, groups.context, dim=1))
    return replace(own, documents=batch.documents)


def inputs(batch: Batch) -> dict[str, Tensor]:
    """Keywords of the model's forward, on the device; documents stay on the host, which has to count them."""
    on_device = vars(batch.map(lambda tensor: tensor.to(device(), non_blocking=True)))
    return {name: tensor for name, tensor in (on_device | {"documents": batch.documents}).items() if tensor is not None}
