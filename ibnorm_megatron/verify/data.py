"""Sequences made in memory, whose masks are as uneven as documents make them, or more."""

from __future__ import annotations

import torch
from torch import Tensor

#: Which share of a sequence's labels count, by its number: between none at all and all, so that neither micro-batches nor
#: ranks have equally many, and one sequence in eight has none.
_KEPT = (1.0, 0.03, 0.6, 0.0, 0.9, 0.2, 1.0, 0.1)


class MadeSequences:
    """What :class:`ibnorm_megatron.data.loader.Loader` reads: sample ``i`` depends on the seed and ``i`` alone.

    Args:
        sequence_length: tokens a sequence.
        vocab_size: ids are below it. Small ids are frequent, as in text, and every id may occur.
        seed: of everything.
    """

    per_epoch = 2**31

    def __init__(self, sequence_length: int, vocab_size: int, seed: int) -> None:
        self._length, self._vocab_size, self._seed = sequence_length, vocab_size, seed

    def sample(self, index: int) -> dict[str, Tensor]:
        """tokens, labels, position_ids (int64) and loss_mask (float32), each ``[sequence_length]``."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
        uniform = torch.rand(self._length + 1, generator=generator)
        # Log-uniform, so nearly Zipf's law.
        ids = ((self._vocab_size + 1) ** uniform).long().clamp_max(self._vocab_size) - 1
        kept = torch.rand(self._length, generator=generator) < _KEPT[(index + index // len(_KEPT)) % len(_KEPT)]
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": kept.float(),
            "position_ids": torch.arange(self._length),
        }

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every label is masked."""
        sample = self.sample(0)
        return sample | {"loss_mask": torch.zeros_like(sample["loss_mask"])}
