"""Whose memory or time is asked for: one rank of a pipeline stage, of a run on so many processes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..config import Config
from ..train.zero_traffic import ELEMENT_BYTES

#: Where a run is estimated for: kernels differ, and with them what they keep.
Device = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class OfRank:
    """What is reckoned of one rank.

    Args:
        config: the run's.
        world_size: processes.
        stage: of the pipeline.
        device: where it runs.
    """

    config: Config
    world_size: int
    stage: int
    device: Device

    @property
    def element(self) -> int:
        """Bytes of a weight or an activation, as the model computes with them."""
        return ELEMENT_BYTES[self.config.train.precision]

    @cached_property
    def micro_batches(self) -> int:
        """Of a rank in a step."""
        return self.config.train.micro_batches(self.config.parallel.data(self.world_size))
