"""The layout of a run: how many ranks share a layer, a sequence, the data, and the optimizer's state.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import Problem
from .deepspeed_keys import deepspeed_problems

Precision = Literal["fp32", "bf16", "fp16"]


class Layout(BaseModel):
    """Sizes are numbers of ranks; what is left of the world is data parallel."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tensor: int = Field(1, gt=0, description="ranks that share every matrix product")
    sequence: bool = Field(False, description="shard the tokens between those products over the tensor ranks too")
    pipeline: int = Field(1, gt=0, description="ranks that share the layers")
    context: int = Field(1, gt=0, description="ranks that share every sequence")
    zero_stage: int = Field(1, ge=0, le=3, description="DeepSpeed ZeRO: 1 shards optimizer state, 2 gradients, 3 weights")
    offload_optimizer: bool = Field(False, description="keep optimizer state and its step on the CPU")
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="keys that override the DeepSpeed config we build")

    @property
    def model_parallel(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def sequence_parallel(self) -> bool:
        """Whether tokens are sharded: it needs tensor ranks to shard over."""
        return self.sequence and self.tensor > 1

    def data(self, world_size: int) -> int:
        """Data-parallel ranks in a world of this size."""
        return world_size // self.model_parallel

    def problems(self, precision: Precision, world_size: int | None) -> Iterator[Problem]:
        """What of this layout cannot work by itself."""
        for field in ("pipeline", "context"):
            if getattr(self, field) > 1:
                yield Problem(
                    f"parallel.{field}", str(getattr(self, field)), "only 1 is built so far", f"set parallel.{field}=1"
                )
        if self.zero_stage == 0 and precision != "fp32":
            why = f"{precision} at stage 0 takes a wrong first optimizer step in DeepSpeed"
            yield Problem("parallel.zero_stage", "0", why, "set parallel.zero_stage=1 or train.precision=fp32")
        if self.offload_optimizer and self.zero_stage == 0:
            why = "offloading needs an optimizer that ZeRO shards"
            yield Problem("parallel.offload_optimizer", "true", why, "set parallel.zero_stage to 1, 2 or 3")
        yield from deepspeed_problems(self.deepspeed)
        if world_size is not None and world_size < 1:
            yield Problem("the world size", str(world_size), "a run needs at least one process", "launch 1 or more")
        elif world_size is not None and world_size % self.model_parallel:
            need = f"tensor {self.tensor} x pipeline {self.pipeline} x context {self.context} = {self.model_parallel}"
            why = f"the layout needs a multiple of {need} processes"
            yield Problem(
                "the world size", str(world_size), why, f"launch {self.model_parallel} or a multiple, or set parallel.tensor"
            )
