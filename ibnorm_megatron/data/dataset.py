"""Sequences in an order that is a contract: sample ``i`` depends on the data, the seed and ``i``, and on nothing else.

Not on the number of ranks, the micro-batch, or how long the run will be. ``index`` says what an epoch's order is, and ``blend``
which corpus a sample comes from where corpora have weights.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..errors import Problem, UserError
from ..files import hash_text
from .blend import Blend
from .index import VERSION, EpochIndex, numbered, sequences_of
from .index_cache import IndexCache
from .manifest import Corpus, Manifest, SplitName
from .permutation import mix
from .prepared import Prepared
from .shards import open_shard


class Sequences(Protocol):
    """What a :class:`~.loader.Loader` takes its samples from; :class:`SequenceDataset` says what each does."""

    per_epoch: int

    def sample(self, index: int) -> dict[str, Tensor]:
        """A sample."""

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every label is masked."""


class SequenceDataset:
    """Sequences of one split, epoch after epoch.

    Without weights the documents of all corpora are permuted together. With weights, in training, every corpus goes through
    epochs of its own, and ``per_epoch`` is only how many sequences they have together. Validation and test are never weighted.

    Labels are the tokens that follow the inputs, and all of them count, but for these:

    * with ``document_mask`` a label of another document than its input's: those whose input is an end of document. Then
      ``documents`` numbers the documents of a row from 0, and positions begin at 0 in each, and at the row's beginning, whether
      or not a document does. Without, positions run through the row.
    * without ``loss_on_end_of_document`` a label that is the end-of-document token. (Megatron's ``eod_mask_loss`` masks
      positions whose *input* is that token: what ``document_mask`` masks. A label that ends a document counts there.)

    Args:
        prepared: the data.
        split: ``train``, ``validation`` or ``test``.
        sequence_length: tokens a sequence.
        seed: of the permutations.
        cache: a folder for the index of every epoch in use, keyed by the data's content. Ranks and runs may share it.

    Raises:
        UserError: the split is, or a corpus with a weight is, shorter than one sequence, or a shard's index is not what the
            manifest says.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: SplitName,
        sequence_length: int,
        seed: int,
        cache: Path,
        *,
        document_mask: bool = False,
        loss_on_end_of_document: bool = True,
    ) -> None:
        self._document_mask, self._loss_on_end = document_mask, loss_on_end_of_document
        self._end, self._length = prepared.tokenizer.end_of_document, sequence_length
        corpora = prepared.corpora
        self._blend: Blend | None = None
        if prepared.weights and split == "train":
            self._blend = Blend([prepared.weights[corpus.name] for _, _, corpus in corpora])
            self._streams = [
                _Stream(
                    f"the {split} split of the corpus {one[2].name!r}", [one], split, sequence_length, _own(seed, one), cache
                )
                for one in corpora
            ]
        else:
            self._streams = [_Stream(f"the {split} split of {prepared.where}", corpora, split, sequence_length, seed, cache)]
        self.per_epoch = sum(stream.per_epoch for stream in self._streams)

    def sample(self, index: int) -> dict[str, Tensor]:
        """Sample ``index``, from 0, without end; each tensor is ``[sequence_length]``.

        Returns:
            tokens, labels, position_ids (int64) and loss_mask (float32), and with ``document_mask`` documents (int32).
        """
        stream, place = self._blend.place(index) if self._blend else (0, index)
        ids, bounds = self._streams[stream].sequence(place)
        tokens, labels = ids[:-1], ids[1:]
        counts = np.ones(self._length, dtype=np.float32)
        if not self._loss_on_end:
            counts[labels == self._end] = 0
        found = {"tokens": tokens, "labels": labels, "loss_mask": counts}
        positions = np.arange(self._length, dtype=np.int64)
        if self._document_mask:
            sizes = np.diff(bounds)
            documents = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
            counts[documents[1:] != documents[:-1]] = 0
            found["documents"] = documents[:-1]
            positions -= bounds[documents[:-1]]
        found["position_ids"] = positions
        return {name: torch.from_numpy(array) for name, array in found.items()}

    def nothing(self) -> dict[str, Tensor]:
        """A sample whose every label is masked, to fill up a last batch."""
        sample = self.sample(0)
        return sample | {"loss_mask": torch.zeros_like(sample["loss_mask"])}

    def close(self) -> None:
        """Let go of the indices, which another run may then remove."""
        for stream in self._streams:
            stream.close()


_Place = tuple[Path, Manifest, Corpus]


def _own(seed: int, corpus: _Place) -> int:
    """A corpus's own seed, so that corpora of one size are not permuted alike."""
    return mix(seed, xxhash.xxh3_64_intdigest(corpus[2].name.encode()))


def _read_at_random(mapped: np.ndarray) -> np.ndarray:
    """The same array, of whose file the kernel then reads what is asked for, and not up to 2 MB around it."""
    base: object = mapped
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)
    return mapped


class _Stream:
    """Documents of some corpora that are permuted together, epoch after epoch."""

    def __init__(
        self, where: str, corpora: Sequence[_Place], split: SplitName, sequence_length: int, seed: int, cache: Path
    ) -> None:
        shards = [(*place, shard) for *place, corpus in corpora for shard in corpus.splits.get(split, [])]
        tokens = sum(shard.tokens for *_, shard in shards)
        self.per_epoch = sequences_of(tokens, sequence_length)
        if self.per_epoch < 1:
            why = f"one sequence needs train.sequence_length + 1 = {sequence_length + 1}"
            mend = "prepare more text, or shorten train.sequence_length"
            raise UserError(Problem(where, f"{tokens} tokens", why, mend))
        opened = [open_shard(folder, shard, manifest) for folder, manifest, shard in shards]
        # Plain arrays over the mappings: slices of a memmap object take longer.
        self._tokens = [_read_at_random(np.asarray(shard.tokens)) for shard in opened]
        self._offsets = [np.asarray(shard.offsets) for shard in opened]
        lengths, self._firsts = numbered([np.asarray(shard.lengths) for shard in opened])
        self._length = sequence_length
        content = " ".join(f"{shard.bin_hash} {shard.idx_hash}" for *_, shard in shards)
        folder = cache / f"{hash_text(f'{VERSION} {content}')}-{split}-{sequence_length}"
        self._indices = IndexCache(folder, seed, lambda epoch: EpochIndex.build(lengths, sequence_length, seed, epoch))
        self.close = self._indices.close

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequence ``index`` of all epochs, one after another.

        Returns:
            Its ids, int64 ``[sequence_length + 1]``, and where in it each of its documents begins and the last ends.
        """
        epoch, place = divmod(index, self.per_epoch)
        documents, bounds, skipped = self._indices.epoch(epoch).span(place, self._length)
        ids = np.empty(self._length + 1, dtype=np.int64)
        ends = bounds.tolist()
        for number, document in enumerate(documents.tolist()):
            shard = bisect_right(self._firsts, document) - 1
            tokens, begin, end = self._tokens[shard], ends[number], ends[number + 1]
            at = int(self._offsets[shard][document - self._firsts[shard]]) // tokens.itemsize + skipped
            ids[begin:end] = tokens[at : at + end - begin]
            skipped = 0  # only the first document may begin before the sequence
        return ids, bounds
