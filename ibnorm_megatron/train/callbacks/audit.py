"""Copies of a weight that drift apart train a model that nobody described: they are looked at now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...errors import Problem, RunFailure
from ...parallel.cpu_compat import device
from ...parallel.replicas import mismatches
from .base import Callback

if TYPE_CHECKING:
    from ..loop import Trainer


class ReplicaAudit(Callback):
    """Every ``interval`` steps (0: never) compare a hash of every replicated weight over the ranks that hold a copy.

    It comes before a checkpoint, so that none is written of a model whose copies differ.

    Raises:
        RunFailure: the copies of a weight differ; on every rank, named by those that hold one.
    """

    doing = "comparing copies of weights"

    def __init__(self, interval: int) -> None:
        self._interval = interval

    def after_step(self, trainer: Trainer) -> None:
        if self._interval and trainer.state.step % self._interval == 0:
            self._audit(trainer)

    def _audit(self, trainer: Trainer) -> None:
        module, stage = trainer.engine.module, trainer.config.parallel.zero_stage
        found = mismatches(module.logical_parameters(), trainer.groups, sharded_weights=stage == 3)
        anywhere = torch.tensor(float(bool(found)), device=device())
        dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
        if not anywhere:
            return
        said = "; ".join(map(str, found[:3])) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        why = said or "other ranks found copies of a weight that differ, and name it"
        mend = "go on from the last checkpoint; if it happens again, look for a norm or plugin whose gradient is not summed"
        raise RunFailure(Problem("the model after step", str(trainer.state.step), why, f"{mend} (see ibnorm verify)"))
