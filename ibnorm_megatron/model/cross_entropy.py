"""The loss of every token where one rank holds the whole vocabulary, written for ``torch.compile``.

Megatron-core's vocabulary-parallel cross-entropy is an autograd function of a dozen passes over ``[s, b, vocabulary]`` with
all-reduces between them. Where no tensor rank shares the vocabulary there is nothing to reduce, and one expression says it
all; compiled, it reads the logits twice forward and once backward, in their own layout and type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    """Nats of every label: float32 ``[s, b]``.

    Args:
        logits: ``[s, b, columns]``; the columns from ``vocab_size`` on are padding and have probability 0.
        labels: integers below ``vocab_size``, ``[b, s]``.
        vocab_size: columns that can be predicted.
    """
    # Padding is cut off, not filled: with nothing to write, its gradient is 0 by itself.
    predicted = logits[..., :vocab_size].flatten(0, 1).float()
    return F.cross_entropy(predicted, labels.t().flatten(), reduction="none").view(logits.shape[:2])


@cache
def compiled_cross_entropy() -> Callable[[Tensor, Tensor, int], Tensor]:
    """The same, compiled. Another shape, as an evaluation's may be, is compiled for itself."""
    return torch.compile(cross_entropy, dynamic=False)
