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
Recompute = Literal["none", "selective", "full"]
ContextMethod = Literal["all_gather", "all_to_all"]


class Layout(BaseModel):
    """Sizes are numbers of ranks; what is left of the world is data parallel."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    tensor: int = Field(1, gt=0, description="ranks that share every matrix product")
    sequence: bool = Field(False, description="shard the tokens between those products over the tensor ranks too")
    pipeline: int = Field(1, gt=0, description="ranks that share the layers")
    virtual_pipeline: int = Field(1, gt=0, description="runs of layers on each of those ranks (interleaved 1F1B); only 1")
    context: int = Field(1, gt=0, description="ranks that share every sequence")
    context_method: ContextMethod = Field(
        "all_gather", description="how these share attention: all keys and values to each, or all tokens of some heads to each"
    )
    recompute: Recompute = Field(
        "none", description="compute again in the backward pass, to save memory: core attention, or whole layers"
    )
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
        if self.virtual_pipeline > 1:
            why = "interleaved 1F1B is not offered"
            if self.pipeline == 2:
                why += ": between two stages Megatron-core's batched messages give wrong gradients without a word"
            yield Problem("parallel.virtual_pipeline", str(self.virtual_pipeline), why, "set parallel.virtual_pipeline=1")
        if self.pipeline > 1:
            yield from self._pipeline_problems(precision)
        if self.zero_stage == 0 and precision != "fp32":
            why = f"{precision} at stage 0 takes a wrong first optimizer step in DeepSpeed"
            yield Problem("parallel.zero_stage", "0", why, "set parallel.zero_stage=1 or train.precision=fp32")
        if self.offload_optimizer and self.zero_stage == 0:
            why = "offloading needs an optimizer that ZeRO shards"
            yield Problem("parallel.offload_optimizer", "true", why, "set parallel.zero_stage to 1, 2 or 3")
        if self.context_method == "all_to_all" and self.context == 1:
            why = "parallel.context is 1, so there is nothing to exchange"
            yield Problem("parallel.context_method", "all_to_all", why, "leave it out, or set parallel.context")
        yield from deepspeed_problems(self.deepspeed)
        if world_size is not None and world_size < 1:
            yield Problem("the world size", str(world_size), "a run needs at least one process", "launch 1 or more")
        elif world_size is not None and world_size % self.model_parallel:
            need = f"tensor {self.tensor} x pipeline {self.pipeline} x context {self.context} = {self.model_parallel}"
            why = f"the layout needs a multiple of {need} processes"
            yield Problem(
                "the world size", str(world_size), why, f"launch {self.model_parallel} or a multiple, or set parallel.tensor"
            )

    def _pipeline_problems(self, precision: Precision) -> Iterator[Problem]:
        """DeepSpeed adds up 1F1B's micro-batches in a ZeRO optimizer of stage 1 or 2, in float32 only at stage 2."""
        stage, stages = str(self.zero_stage), f"parallel.pipeline {self.pipeline}"
        if self.zero_stage == 3:
            why = f"under {stages} the stages would wait for each other's weights for ever"
            yield Problem("parallel.zero_stage", stage, why, "set parallel.zero_stage to 1 or 2, or parallel.pipeline=1")
        elif self.zero_stage == 0:
            why = f"DeepSpeed cannot add up the micro-batches of {stages} without a ZeRO optimizer"
            yield Problem("parallel.zero_stage", stage, why, "set parallel.zero_stage to 1 or 2, or parallel.pipeline=1")
        elif self.zero_stage == 1 and precision != "fp32":
            why = f"under {stages} DeepSpeed would add up micro-batches in {precision}"
            yield Problem("parallel.zero_stage", stage, why, "set parallel.zero_stage=2 or train.precision=fp32")
