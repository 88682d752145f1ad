"""What the norms alone cost: their share of a step, measured on the activations of the model that was trained."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...data.loader import Loader
from ...model.spec import norm_slots
from ...norms.base import Norm
from ...norms.site import Site
from ...parallel.cpu_compat import device, on_gpu
from .base import Callback
from .norm_inputs import show_norms

if TYPE_CHECKING:
    from ..loop import Trainer

_REPEATS = 7


class NormCost(Callback):
    """After the last step, run every norm forward and backward by itself and add ``norm_seconds`` to the summary.

    norm_seconds is what all norms take, forward and backward, for all micro-batches of a step.
    Each norm is a fresh one of the same config, fed with the input that the trained one sees on a validation batch, and
    its time is the median of several runs; all ranks measure at once, and the slowest counts.
    """

    doing = "timing norms"

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def on_end(self, trainer: Trainer) -> None:
        if trainer.state.step < trainer.config.train.steps:
            return
        inputs = self._inputs(trainer)
        slots = norm_slots(trainer.config.model, trainer.groups)
        seconds = 0.0
        for site, x in inputs.items():
            norm = slots[site].build(trainer.engine.module.gpt.config).to(x)
            seconds += _seconds(norm, x)
        seconds *= trainer.config.train.micro_batches(trainer.groups.data_size)
        slowest = torch.tensor(seconds, dtype=torch.float64, device=device())
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        trainer.summary["norm_seconds"] = float(slowest)

    def _inputs(self, trainer: Trainer) -> dict[Site, Tensor]:
        """The input of every norm for one validation micro-batch."""
        seen: dict[Site, Tensor] = {}

        def keep(norm: Norm, x: Tensor) -> None:
            assert norm.site is not None
            seen[norm.site] = x.clone()

        show_norms(trainer, self._loader, keep)
        return seen


def _seconds(norm: nn.Module, x: Tensor) -> float:
    """Median seconds of one forward and backward pass."""
    dy = torch.randn_like(x)
    times = []
    for _ in range(_REPEATS):
        leaf = x.detach().requires_grad_()
        _synchronize()
        start = time.perf_counter()
        norm(leaf).backward(dy)
        _synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronize() -> None:
    if on_gpu():
        torch.cuda.synchronize()
