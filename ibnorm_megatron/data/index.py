"""The order of one epoch: which documents follow each other, and which of the sequences cut from them comes when.

An epoch lays its documents end to end in a permutation of their own, cuts that line into sequences of ``sequence_length`` + 1
tokens of which neighbours share one, and permutes the sequences. What does not fill a sequence at the line's end is left out:
other tokens in every epoch. Three arrays say all of this; they take 12 bytes a document and 4 a sequence.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import hash_file, write_json
from .permutation import permutation

#: Part of every index's key. Change it with anything that changes an order or a file.
VERSION = 1

#: A folder that holds this file holds all of an index. Processes that use the index hold a lock on it.
RECORD = "index.json"

_DOCUMENTS, _SEQUENCES = 1, 2  # which permutation; part of its key
_FIELDS = {"documents": np.uint32, "starts": np.int64, "sequences": np.uint32}


@dataclass(frozen=True)
class EpochIndex:
    """One epoch's order.

    Attributes:
        documents: the documents in their order, by their number over all shards; uint32 ``[n]``.
        starts: where each begins on the line, and where the last one ends; int64 ``[n + 1]``.
        sequences: the sequences in their order, by their place on the line; uint32 ``[sequences]``.
    """

    documents: np.ndarray
    starts: np.ndarray
    sequences: np.ndarray

    @staticmethod
    def build(lengths: np.ndarray, sequence_length: int, seed: int, epoch: int) -> EpochIndex:
        """The order of an epoch, from its documents' lengths in tokens: integers ``[n]``. A pure function."""
        documents = permutation(lengths.size, seed, epoch, _DOCUMENTS)
        starts = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths[documents], dtype=np.int64, out=starts[1:])
        count = sequences_of(int(starts[-1]), sequence_length)
        return EpochIndex(documents, starts, permutation(count, seed, epoch, _SEQUENCES))

    def span(self, place: int, sequence_length: int) -> tuple[np.ndarray, np.ndarray, int]:
        """What the ``place``-th sequence of the epoch is made of.

        Returns:
            Its documents ``[d]``; where each begins in it and where the last ends, int64 ``[d + 1]``, from 0 to
            ``sequence_length`` + 1; and how many tokens of the first lie before it.
        """
        begin = int(self.sequences[place]) * sequence_length
        end = begin + sequence_length + 1
        first, last = (int(at) - 1 for at in np.searchsorted(self.starts, (begin, end - 1), side="right"))
        starts = self.starts[first : last + 2]
        return self.documents[first : last + 1], np.minimum(np.maximum(starts, begin), end) - begin, begin - int(starts[0])

    def write(self, folder: Path) -> None:
        """Write the arrays into an empty folder, durably, and last of all the record of what they are."""
        for name in _FIELDS:
            with open(folder / f"{name}.npy", "wb") as file:
                np.save(file, getattr(self, name))
                file.flush()
                os.fsync(file.fileno())
        files = {name: [_file(folder, name).stat().st_size, hash_file(_file(folder, name))] for name in _FIELDS}
        write_json(folder / RECORD, {"version": VERSION, "files": files})

    @staticmethod
    def read(folder: Path, record: dict[str, list[int | str]]) -> EpochIndex | None:
        """Map the arrays that ``record`` describes; None if they are not what it says."""
        try:
            for name in _FIELDS:
                size, digest = record[name]
                if _file(folder, name).stat().st_size != size or hash_file(_file(folder, name)) != digest:
                    return None
            # Plain arrays over the mapping: slices of a memmap object take longer.
            arrays = {name: np.asarray(np.load(_file(folder, name), mmap_mode="r")) for name in _FIELDS}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        same = all(array.ndim == 1 and array.dtype == _FIELDS[name] for name, array in arrays.items())
        return EpochIndex(**arrays) if same else None


def sequences_of(tokens: int, sequence_length: int) -> int:
    """How many sequences so many tokens make: each has one token more than its length, which the next one begins with."""
    return max(tokens - 1, 0) // sequence_length


def numbered(shards: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """The lengths of all shards' documents, ``[n]``, and the number of each shard's first document."""
    firsts = [0]
    for lengths in shards[:-1]:
        firsts.append(firsts[-1] + lengths.size)
    return (shards[0] if len(shards) == 1 else np.concatenate(shards)), firsts


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"
