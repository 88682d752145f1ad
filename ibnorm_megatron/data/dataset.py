"""Sequences in an order that is a contract: sample ``i`` depends on the data, the seed and ``i``, and on nothing else.

Megatron's GPTDataset cuts a shuffled epoch of documents into sequences. Asked for more than one epoch it reorders all of
them, the first included, so that a longer run sees other data from its first step. Here every epoch is a GPTDataset of
its own, with its own permutation, and the horizon of a run does not matter.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch.distributed as dist
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split
from torch import Tensor

from ..errors import Problem, UserError
from ..files import rename_directory
from .batch import Batch
from .manifest import Manifest, SplitName
from .shards import open_shard


@dataclass(frozen=True)
class _TokenizerIds:
    """What GPTDataset asks of a tokenizer. No id is padding: shards hold none, and every id of theirs is predicted."""

    eod: int
    vocab_size: int
    pad: int = -1

    @property
    def unique_identifiers(self) -> dict[str, int]:
        return {"eod": self.eod, "vocab_size": self.vocab_size}


class Sequences(Protocol):
    """What a :class:`Loader` takes its samples from; :class:`SequenceDataset` says what each does."""

    per_epoch: int

    def prepare(self, first: int, last: int) -> None:
        """Make samples ``first`` to ``last`` ready. Collective."""

    def sample(self, index: int) -> dict[str, Tensor]:
        """A prepared sample."""

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every token is masked."""


class SequenceDataset:
    """Sequences of one split, epoch after epoch.

    Args:
        folder: a prepared folder.
        manifest: its manifest.
        split: ``train`` or ``validation``.
        sequence_length: tokens a sequence.
        seed: of the permutations.
        cache: a folder that all ranks of this run share, for the index of every epoch in use. It is keyed by the data's
            content.

    Raises:
        UserError: the split is shorter than one sequence, or a shard's index is not what the manifest says.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, split: SplitName, sequence_length: int, seed: int, cache: Path
    ) -> None:
        tokens = manifest.tokens(split)
        self.per_epoch = (tokens - 1) // sequence_length
        if self.per_epoch < 1:
            why = f"one sequence needs train.sequence_length + 1 = {sequence_length + 1}"
            mend = "prepare more text, or shorten train.sequence_length"
            raise UserError(Problem(f"the {split} split of {folder}", f"{tokens} tokens", why, mend))
        (shard,) = manifest.splits[split]
        self._shard_name = shard.name
        self._indexed: IndexedDataset = open_shard(folder, shard, manifest)
        self._split = Split.train if split == "train" else Split.valid
        self._sequence_length, self._seed = sequence_length, seed
        self._ids = _TokenizerIds(manifest.tokenizer.end_of_document, manifest.tokenizer.vocab_size)
        self._cache = cache / f"{manifest.content_hash()}-{split}-{sequence_length}"
        self._epochs: dict[int, GPTDataset] = {}

    def prepare(self, first: int, last: int) -> None:
        """Make samples ``first`` to ``last`` ready. Collective: every rank calls it before any reads them.

        Indices of epochs that no rank uses any more are removed; a run that goes back to one builds the same again.
        """
        epochs, before = range(first // self.per_epoch, last // self.per_epoch + 1), self._epochs
        self._epochs = {epoch: before.get(epoch) or self._build(epoch) for epoch in epochs}
        if dist.get_rank() == 0 and self._epochs.keys() - before.keys():
            # Every rank has met the barrier of a new epoch, so none is behind ``before``; some may still be there.
            self._remove_indices(keep={self._index(epoch) for epoch in before.keys() | self._epochs.keys()})

    def sample(self, index: int) -> dict[str, Tensor]:
        """A prepared sample: tokens, labels, position_ids (int64) and loss_mask (float32), each ``[sequence_length]``."""
        epoch, within = divmod(index, self.per_epoch)
        return self._epochs[epoch][within]

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every token is masked, to fill up a last batch."""
        return next(iter(self._epochs.values()))[None]

    def _index(self, epoch: int) -> Path:
        return self._cache / f"seed{self._seed}-epoch{epoch}"

    def _remove_indices(self, keep: set[Path]) -> None:
        for index in set(self._cache.glob(f"seed{self._seed}-epoch*")) - keep:
            # Renamed first: what has its own name is complete, even if a kill stops the removal.
            shutil.rmtree(index.rename(self._free_temporary(index)), ignore_errors=True)

    @staticmethod
    def _free_temporary(index: Path) -> Path:
        temporary = index.with_name(f".{index.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        return temporary

    def _build(self, epoch: int) -> GPTDataset:
        """Rank 0 writes the index under a temporary name and renames it; then every rank maps it."""
        final = self._index(epoch)
        if dist.get_rank() == 0 and not final.is_dir():
            temporary = self._free_temporary(final)
            temporary.mkdir(parents=True)
            self._gpt_dataset(temporary, epoch)
            rename_directory(temporary, final)
        dist.barrier()
        return self._gpt_dataset(final, epoch)

    def _gpt_dataset(self, cache: Path, epoch: int) -> GPTDataset:
        config = GPTDatasetConfig(
            random_seed=(self._seed + 1_000_003 * epoch) % 2**32,
            sequence_length=self._sequence_length,
            split="1",
            path_to_cache=str(cache),
            tokenizer=self._ids,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        documents = np.arange(len(self._indexed), dtype=np.int32)
        # The name is hashed into the index files' names: not the whole path, so that a moved folder finds them again.
        return GPTDataset(self._indexed, self._shard_name, documents, None, self._split, config)


class Loader:
    """Which samples a data-parallel rank takes at a step: a pure function of the step.

    Step s of any layout sees samples s*G to (s+1)*G - 1, where G is the global batch; micro-batch m of rank r of R takes
    the (m*R + r)-th run of ``micro_batch_size`` of them.
    """

    def __init__(
        self, dataset: Sequences, *, global_batch_size: int, micro_batch_size: int, data_rank: int, data_size: int
    ) -> None:
        self._dataset = dataset
        self._global, self._micro = global_batch_size, micro_batch_size
        self._rank, self._size = data_rank, data_size

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of a training step, from 0; the data repeats epoch after epoch."""
        first = step * self._global
        self._dataset.prepare(first, first + self._global - 1)
        return [Batch.of([self._dataset.sample(i) for i in indices]) for indices in self._indices(first)]

    def once(self, step: int) -> list[Batch]:
        """As :meth:`step`, for one pass: past the split's end there are masked samples."""
        self._dataset.prepare(0, self._dataset.per_epoch - 1)
        take = lambda i: self._dataset.sample(i) if i < self._dataset.per_epoch else self._dataset.nothing()  # noqa: E731
        return [Batch.of([take(i) for i in indices]) for indices in self._indices(step * self._global)]

    def passes(self) -> int:
        """Global batches that one pass over the split takes."""
        return -(-self._dataset.per_epoch // self._global)

    def _indices(self, first: int) -> list[range]:
        starts = range(first + self._rank * self._micro, first + self._global, self._size * self._micro)
        return [range(start, start + self._micro) for start in starts]
