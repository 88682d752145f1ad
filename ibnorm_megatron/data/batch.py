"""What a model is given: the tokens of one micro-batch, which of their labels count, and whose documents they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank; each tensor is ``[micro_batch_size, sequence_length]``.

    ``documents`` is the number of each token's document within its row, from 0 (int32), or None where attention does not
    ask for it.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    documents: Tensor | None = None

    @staticmethod
    def of(samples: list[dict[str, Tensor]]) -> Batch:
        """Stack samples, all with documents or all without."""
        names = [name for name in Batch.__dataclass_fields__ if name in samples[0]]
        return Batch(**{name: torch.stack([sample[name] for sample in samples]) for name in names})

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of every tensor, changed."""
        return Batch(**{name: None if tensor is None else change(tensor) for name, tensor in vars(self).items()})

    @property
    def num_tokens(self) -> float:
        """How many labels count."""
        return float(self.loss_mask.sum())
