"""Sequences made in memory, whose masks, and whose documents, are as uneven as text makes them, or more."""

from __future__ import annotations

import torch
from torch import Tensor

#: Which share of a sequence's labels count, by its number: between none at all and all, so that neither micro-batches nor
#: ranks have equally many, and one sequence in eight has none.
_KEPT = (1.0, 0.03, 0.6, 0.0, 0.9, 0.2, 1.0, 0.1)

#: With which chance a token begins a document, by a sequence's number: one that fills it, a few of uneven length, many of a
#: token or two, and nothing but single tokens. Five, so that every mask meets all of them.
_BEGINS = (0.05, 0.0, 0.5, 0.1, 1.0)


class MadeSequences:
    """What :class:`ibnorm_megatron.data.loader.Loader` reads: sample ``i`` depends on the seed and ``i`` alone.

    Args:
        sequence_length: tokens a sequence.
        vocab_size: ids are below it. Small ids are frequent, as in text, and every id may occur.
        seed: of everything.
        documents: sequences hold several of them, and say which token is of which; positions are counted anew in each. Tokens,
            labels and masks stay what they are.
    """

    per_epoch = 2**31

    def __init__(self, sequence_length: int, vocab_size: int, seed: int, *, documents: bool = False) -> None:
        self._length, self._vocab_size, self._seed, self._documents = sequence_length, vocab_size, seed, documents

    def sample(self, index: int) -> dict[str, Tensor]:
        """tokens, labels, position_ids (int64), loss_mask (float32) and, if asked for, documents (int32), each
        ``[sequence_length]``."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
        uniform = torch.rand(self._length + 1, generator=generator)
        # Log-uniform, so nearly Zipf's law.
        ids = ((self._vocab_size + 1) ** uniform).long().clamp_max(self._vocab_size) - 1
        kept = torch.rand(self._length, generator=generator) < _KEPT[(index + index // len(_KEPT)) % len(_KEPT)]
        positions = torch.arange(self._length)
        sample = {"tokens": ids[:-1], "labels": ids[1:], "loss_mask": kept.float(), "position_ids": positions}
        if not self._documents:
            return sample
        begins = torch.rand(self._length, generator=generator) < _BEGINS[index % len(_BEGINS)]
        begins[0] = False
        first = torch.where(begins, positions, 0).cummax(0).values  # of the document that a token is in
        return sample | {"position_ids": positions - first, "documents": begins.cumsum(0, dtype=torch.int32)}

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every label is masked."""
        sample = self.sample(0)
        return sample | {"loss_mask": torch.zeros_like(sample["loss_mask"])}
