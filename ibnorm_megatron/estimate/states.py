"""Weights, gradients and optimizer state of a rank under DeepSpeed's ZeRO, and what it copies while it reduces and steps.

The sizes are those of Rajbhandari et al. (arXiv 1910.02054): 16 bytes a parameter, of which the stages share 12, 14 or all
among the replicas. DeepSpeed 0.19 adds what its code does: ZeRO keeps float32 copies of float32 weights, gradients are
accumulated in float32 where a step has several micro-batches, and buckets are flattened, and cast, before they are sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..model.shards import held_modules
from ..parallel.reduction import DEFAULT_BUCKET, Reduction
from .rank import OfRank

#: AdamW's two moments, in float32.
_MOMENTS = 8

#: DeepSpeed's own numbers of elements that stage 3 keeps gathered, and steps on at once.
_LIVE, _SUB_GROUP = 10**9, 10**9


@dataclass(frozen=True)
class States(OfRank):
    """Of one rank of a stage; all in bytes."""

    @cached_property
    def sizes(self) -> list[int]:
        """Elements of every parameter that the rank's tensor shard has."""
        modules = held_modules(self.config.model, self.config.parallel, self.stage)
        return [parameter.elements for module in modules for parameter in module.parameters]

    @cached_property
    def elements(self) -> int:
        """Of all of them."""
        return sum(self.sizes)

    @property
    def zero(self) -> int:
        """ZeRO's stage."""
        return self.config.parallel.zero_stage

    @property
    def replicas(self) -> int:
        """Ranks that hold the same weights."""
        layout = self.config.parallel
        return layout.data(self.world_size) * layout.context

    @property
    def share(self) -> int:
        """Elements that this rank alone of its replicas steps on."""
        return -(-self.elements // self.replicas) if self.zero else self.elements

    @property
    def pipelined(self) -> bool:
        """Whether there are several pipeline stages."""
        return self.config.parallel.pipeline > 1

    @property
    def wide_sum(self) -> bool:
        """Whether gradients of 16 bits are accumulated in float32."""
        return self.element < 4 and self.micro_batches > 1

    @property
    def own_bf16(self) -> bool:
        """Whether DeepSpeed takes its optimizer for bf16 at stage 1, which holds the whole sum on every rank."""
        return self.wide_sum and self.zero == 1 and self.config.train.precision == "bf16"

    @cached_property
    def reduction(self) -> Reduction:
        """How gradients are reduced."""
        return Reduction.of(self.config.parallel, on_gpu=self.device == "gpu")

    @property
    def offloaded(self) -> bool:
        """Whether the optimizer is on a GPU's host: on a CPU it is where it always was."""
        return self.config.parallel.offload_optimizer

    # What a rank holds from step to step.

    @property
    def weights(self) -> int:
        """The model's, and at stage 3 the rank's share of them."""
        return self.element * (self.share if self.zero == 3 else self.elements)

    @property
    def masters(self) -> int:
        """float32 weights that AdamW steps on, beside the model's: ZeRO copies float32 weights too."""
        return 4 * self.share if self.zero else 0

    @property
    def moments(self) -> int:
        """AdamW's."""
        return _MOMENTS * self.share

    @property
    def average(self) -> int:
        """A running mean of the weights, where there is one."""
        return 4 * self.share if self.config.train.average_decay else 0

    @property
    def offload_buffers(self) -> int:
        """On the host beside masters and moments: their gradients, a copy of the share in the model's type, and a parameter."""
        if not self.offloaded:
            return 0
        if self.zero == 3:
            return 4 * self.share
        return (4 + self.element) * self.share + self.element * max(self.sizes)

    @property
    def offload_parameter(self) -> int:
        """On the device, for a gradient on its way."""
        return self.element * max(self.sizes) if self.offloaded and self.zero < 3 else 0

    @property
    def gradients(self) -> int:
        """Gradients that are there between steps too: DeepSpeed's flat sums."""
        if self.own_bf16:
            return 4 * self.elements
        if self.zero == 3:
            return (4 if self.wide_sum else self.element) * self.share
        return 0

    @property
    def bucket(self) -> int:
        """Stage 3's buffer for reductions, which it never gives back."""
        return 4 * self.reduction.bucket if self.zero == 3 and self.reduction.contiguous else 0

    # What comes and goes within a step.

    @property
    def accumulated(self) -> int:
        """Gradients, beside :attr:`gradients`, that wait while the last micro-batch's forward pass goes on."""
        if self.micro_batches == 1:
            return 0
        if self.own_bf16:
            return self.element * self.elements
        if self.pipelined:
            return self.element * self.elements
        if self.zero == 0 or (self.zero == 1 and not self.offloaded):
            return (4 if self.wide_sum else self.element) * self.elements
        if self.zero == 2:
            return 4 * self.share
        return 0

    def grown(self, elements: int) -> int:
        """Gradients, beside :attr:`gradients` and :attr:`accumulated`, once those of so many parameters' elements are computed.

        Those of the micro-batch before that the new ones are added to are in ``accumulated``.
        """
        if self.zero == 3:
            return 0  # in the bucket; and the partitions are there already
        if self.zero == 2 or (self.zero == 1 and self.reduction.contiguous and not self.own_bf16):
            if self.pipelined:
                return 0 if self.micro_batches > 1 else self.element * elements
            full = self.zero == 1 and self.micro_batches > 1
            over = max(0, elements - self.reduction.bucket)
            partition = 0 if self.wide_sum or self.offloaded else self.element * over // self.replicas
            return 0 if full else partition
        if self.accumulated:
            return 0  # they are added in place
        return self.element * elements

    @property
    def moved(self) -> bool:
        """Whether a gradient is added to, or copied into, memory that was there before it."""
        return bool(self.accumulated or self.zero == 3 or (self.buffers and not self.pipelined))

    def oversized(self, elements: int) -> int:
        """Copies of a gradient that no bucket of stage 3 can hold, and that is reduced at once."""
        return 4 * (2 if self.device == "cpu" else 1) * elements if self.zero == 3 and elements > self.reduction.bucket else 0

    @property
    def buffers(self) -> int:
        """Buffers into which gradients are copied from the start of a backward pass on, or of its end under a pipeline."""
        if self.zero not in (1, 2) or not self.reduction.contiguous or self.own_bf16:
            return 0
        wide = 4 if self.wide_sum and self.zero == 1 else self.element
        return (2 if self.reduction.overlap else 1) * wide * self.reduction.bucket

    @property
    def content(self) -> int:
        """Elements that are in a bucket when it is reduced."""
        return min(DEFAULT_BUCKET if self.zero == 0 or self.own_bf16 else self.reduction.bucket, self.elements)

    @property
    def reducing(self) -> int:
        """Most bytes beside buffers and gradients while a bucket is reduced: its flat copy, and that in float32."""
        if self.zero == 3:
            copies = 2 if self.device == "cpu" else 1  # gloo's reduce-scatter takes a copy of its own
            return 4 * copies * self.content
        wide = 4 if self.own_bf16 or (self.wide_sum and self.zero == 1) else self.element
        flat = wide * self.content
        if self.buffers and self.replicas == 1 and not (self.zero == 2 and self.wide_sum):
            flat = 0  # what goes to one rank is one run of the buffer already
        cast = 4 * self.content if wide < 4 else 0
        return flat + cast

    @property
    def partition(self) -> int:
        """The rank's reduced gradients, where they are apart from those that were reduced."""
        if self.zero not in (1, 2) or not self.reduction.contiguous or self.own_bf16 or self.offloaded:
            return 0
        if self.zero == 2 and self.wide_sum:
            return 4 * self.share if not (self.micro_batches > 1 and not self.pipelined) else 0  # it is in ``accumulated``
        return (4 if self.wide_sum else self.element) * self.share

    @property
    def stepping(self) -> int:
        """Most bytes beside what stays while AdamW steps: gradients of the share, flat and in float32."""
        if self.own_bf16:
            return self.element * self.elements
        if self.zero == 0:
            return self.element * self.elements
        if self.offloaded:
            return 0
        if self.zero == 3:
            part = min(self.share, _SUB_GROUP)
            return (4 if self.element == 4 else 4 + self.element) * part
        held = self.element * (self.share if self.zero == 2 or self.replicas > 1 else self.elements)
        if self.wide_sum:
            return 4 * self.share + (4 * self.share if self.zero == 1 else 0)
        flat = (self.element if self.element < 4 else 0) * self.share
        return held + flat + 4 * self.share

    @property
    def gathered(self) -> int:
        """Stage 3's weights that are gathered at once: all, up to as many elements as DeepSpeed lets live."""
        if self.zero < 3:
            return 0
        given: Any = self.config.parallel.deepspeed.get("zero_optimization")
        live = given.get("stage3_max_live_parameters", _LIVE) if isinstance(given, dict) else _LIVE
        return self.element * min(self.elements, int(live))
