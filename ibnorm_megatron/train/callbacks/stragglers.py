"""Ranks that keep the others waiting are named."""

from __future__ import annotations

import socket
from collections import defaultdict
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from ...parallel.cpu_compat import device
from .base import Callback, Record

if TYPE_CHECKING:
    from ..loop import Trainer

_SLOWER = 1.5  # times the median
_SHARE = 0.1  # of a step's time by which it has to be slower as well: less than that keeps nobody waiting
_RECORDS = 3  # in a row


@dataclass(frozen=True)
class _Measured:
    """Mean seconds of a step on one rank, as :class:`~ibnorm_megatron.train.pace.Pace` counts them, and its stage."""

    own: float
    data: float
    stage: int


class Stragglers(Callback):
    """Name a rank whose own time of a step is over 1.5 times the median of its pipeline stage, in three records in a row.

    Ranks are compared within a stage: stages may have different work. A rank is named once, and again only after it has
    kept up in between. Costs one message of three numbers a rank and record.
    """

    doing = "comparing ranks"

    def __init__(self) -> None:
        self._slow: dict[int, int] = defaultdict(int)  # rank -> records in a row
        self._hosts: list[str] = []

    def on_start(self, trainer: Trainer) -> None:
        self._hosts = [""] * dist.get_world_size()
        if len(self._hosts) > 1:
            dist.all_gather_object(self._hosts, socket.gethostname())

    def on_record(self, trainer: Trainer, record: Record) -> None:
        own, data = trainer.pace.take()
        if len(self._hosts) == 1:
            return
        found = torch.tensor([own, data, trainer.groups.stage], dtype=torch.float64, device=device())
        of_ranks = [torch.empty_like(found) for _ in self._hosts]
        dist.all_gather(of_ranks, found)
        if trainer.groups.first:
            measured = [_Measured(own, data, int(stage)) for own, data, stage in torch.stack(of_ranks).tolist()]
            self._compare(trainer, record, measured)

    def _compare(self, trainer: Trainer, record: Record, measured: list[_Measured]) -> None:
        for rank, one in enumerate(measured):
            # Of two ranks the lower median is the faster one.
            usual = median_low([other.own for other in measured if other.stage == one.stage])
            slow = one.own > _SLOWER * usual and one.own - usual > _SHARE * record["step_seconds"]
            self._slow[rank] = self._slow[rank] + 1 if slow else 0
            if self._slow[rank] == _RECORDS:
                says = (
                    f"rank {rank} on {self._hosts[rank]} is slow: {one.own:.3g} s a step of its own, "
                    f"{one.data:.3g} s of them for data, where the median is {usual:.3g} s"
                )
                trainer.notify_event(
                    {
                        "step": record["step"],
                        "event": "straggler",
                        "rank": rank,
                        "host": self._hosts[rank],
                        "own_seconds": one.own,
                        "data_seconds": one.data,
                        "median_own_seconds": usual,
                        "says": says,
                    }
                )
