"""Held-out documents as rows of tokens, each document by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.manifest import SplitName
from ..data.prepared import Prepared
from ..data.shards import open_shard
from ..errors import Problem, UserError


@dataclass(frozen=True)
class Documents:
    """Rows of tokens; a document begins a row, and goes on in further ones where it is longer.

    A row sees nothing of the one before. Labels are the next tokens; those past a document's end do not count.

    Attributes:
        tokens, labels: int64 ``[rows, sequence_length]``.
        counts: whether a label counts, bool ``[rows, sequence_length]``.
        document: each row's, int64 ``[rows]``, from 0.
    """

    tokens: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    document: np.ndarray

    @property
    def number(self) -> int:
        """How many documents there are."""
        return int(self.document[-1]) + 1

    @property
    def labels_by_document(self) -> np.ndarray:
        """How many labels of each count: ``[documents]``."""
        return np.bincount(self.document, self.counts.sum(axis=1), minlength=self.number)

    def batches(self, rows: int) -> Iterator[tuple[slice, Batch]]:
        """So many rows at a time, and which they are."""
        positions = torch.arange(self.tokens.shape[1])
        for start in range(0, len(self.tokens), rows):
            part = slice(start, min(start + rows, len(self.tokens)))
            tokens, labels = (torch.from_numpy(array[part]) for array in (self.tokens, self.labels))
            counts = torch.from_numpy(self.counts[part]).float()
            yield part, Batch(tokens, labels, counts, positions.expand_as(tokens).contiguous())

    def text_bytes(self, token_bytes: np.ndarray) -> np.ndarray:
        """Bytes of text that each document's counted labels stand for: ``[documents]``; ``token_bytes`` by token."""
        of_rows = np.where(self.counts, token_bytes[self.labels], 0).sum(axis=1)
        return np.bincount(self.document, of_rows, minlength=self.number)


def read_documents(prepared: Prepared, split: SplitName, sequence_length: int, most_tokens: int) -> Documents:
    """Documents of a split, in an order that depends on the data alone, until there are ``most_tokens`` labels.

    No document has more than a sixteenth of ``most_tokens``, so that no long one stands for all; its end is left out.

    Raises:
        UserError: there is no document with two tokens, or a shard is not as its manifest says.
    """
    shards = [
        open_shard(folder, shard, manifest)
        for folder, manifest, corpus in prepared.corpora
        for shard in corpus.splits.get(split, [])
    ]
    places = [(shard, document) for shard in shards for document in range(len(shard))]
    order = np.random.default_rng(0).permutation(len(places))
    rows: list[np.ndarray] = []
    numbers: list[int] = []
    left, longest = most_tokens, max(2, most_tokens // 16)
    for place in order:
        shard, document = places[place]
        ids = shard[document][: min(left, longest) + 1]
        if len(ids) < 2 or left < 1:
            continue
        left -= len(ids) - 1
        number = numbers[-1] + 1 if numbers else 0
        for start in range(0, len(ids) - 1, sequence_length):
            rows.append(np.asarray(ids[start : start + sequence_length + 1], dtype=np.int64))
            numbers.append(number)
    if not rows:
        why = f"its {split} split has no document of two tokens or more"
        raise UserError(Problem("the data", prepared.where, why, "prepare more text, or give another folder"))
    tokens, labels = (np.zeros((len(rows), sequence_length), dtype=np.int64) for _ in range(2))
    counts = np.zeros((len(rows), sequence_length), dtype=bool)
    for row, ids in enumerate(rows):
        length = len(ids) - 1
        tokens[row, :length], labels[row, :length], counts[row, :length] = ids[:-1], ids[1:], True
    return Documents(tokens, labels, counts, np.array(numbers))


def labels_of(documents: Documents) -> Tensor:
    """All labels that count, in the order of rows: int64 ``[n]``."""
    return torch.from_numpy(documents.labels[documents.counts])
