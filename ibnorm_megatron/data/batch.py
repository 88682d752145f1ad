"""What a model is given at once: stacked samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank; each tensor is ``[micro_batch_size, sequence_length]``.

    Attributes:
        tokens: int64.
        labels: int64, the token after each.
        loss_mask: float32, 1 where a label counts.
        position_ids: int64.
        documents: int32, the number of each token's document within its row: 0 for the first, and one more for every next
            one. Attention then keeps to a document. None: it sees all of the row that came before.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    documents: Tensor | None = None

    @staticmethod
    def of(samples: list[dict[str, Tensor]]) -> Batch:
        """Stack samples; the copy also frees them from the mapped file. ``documents`` only if the samples have it."""
        names = [field.name for field in fields(Batch) if field.name != "documents" or "documents" in samples[0]]
        return Batch(**{name: torch.stack([sample[name] for sample in samples]) for name in names})

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of every tensor that is there, changed."""
        return Batch(**{name: change(tensor) for name, tensor in vars(self).items() if tensor is not None})

    @property
    def num_tokens(self) -> float:
        """How many labels count."""
        return float(self.loss_mask.sum())
