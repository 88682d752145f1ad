"""How DeepSpeed is told to reduce gradients, and what it takes where it is told nothing. Imports no torch.

The engine builds DeepSpeed's config from it, and an estimate of memory the buffers that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import Layout

#: Gradients that a CPU reduces at once. DeepSpeed's 5e8 make it map 2 GB anew in every backward pass.
CPU_BUCKET = 50_000_000

#: DeepSpeed 0.19's own number of elements of a bucket.
DEFAULT_BUCKET = 500_000_000


def reduction(zero_stage: int, *, on_gpu: bool) -> dict[str, Any]:
    """Keys of ``zero_optimization``: on GPUs gradients are reduced while the backward pass goes on; a CPU has no streams for
    that, and saves copies."""
    if zero_stage not in (1, 2):
        return {}
    if on_gpu:
        return {"overlap_comm": True}
    # The contiguous buffer keeps GPU memory whole. At stage 1 it is one more copy of every gradient, and on a CPU only that.
    return {"reduce_bucket_size": CPU_BUCKET, **({"contiguous_gradients": False} if zero_stage == 1 else {})}


@dataclass(frozen=True)
class Reduction:
    """What DeepSpeed makes of it.

    Attributes:
        bucket: elements that are reduced at once.
        contiguous: whether they are copied into a buffer of that size.
        overlap: whether there are two such buffers, of which one is reduced while the other fills.
    """

    bucket: int
    contiguous: bool
    overlap: bool

    @staticmethod
    def of(layout: Layout, *, on_gpu: bool) -> Reduction:
        """That of a layout, with what ``parallel.deepspeed`` overrides."""
        keys = reduction(layout.zero_stage, on_gpu=on_gpu)
        given = layout.deepspeed.get("zero_optimization")
        if isinstance(given, Mapping):
            keys |= given
        offloaded = layout.offload_optimizer  # DeepSpeed insists on the buffer then
        return Reduction(
            bucket=int(keys.get("reduce_bucket_size", DEFAULT_BUCKET)),
            contiguous=bool(keys.get("contiguous_gradients", True)) or offloaded,
            overlap=bool(keys.get("overlap_comm", False)),
        )
