"""Token shards on disk: the one place that writes and opens Megatron's IndexedDataset files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from ..errors import Problem, UserError
from ..files import hash_file, sync_file
from .manifest import Manifest, Shard


def dtype_for(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """The narrowest type that Megatron's format knows and every id fits."""
    return np.uint16 if vocab_size <= np.iinfo(np.uint16).max + 1 else np.int32


class ShardWriter:
    """Writes one shard into ``folder``, document by document; :meth:`finish` writes the index and describes the shard.

    The folder is the writer's own, not yet under its final name: nothing here is visible to a reader.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self._folder, self._name, self._vocab_size = folder, name, vocab_size
        self._dtype = dtype_for(vocab_size)
        self._builder = IndexedDatasetBuilder(str(folder / f"{name}.bin"), dtype=self._dtype)
        self._documents = self._tokens = self._text_bytes = 0

    def add(self, ids: np.ndarray, text_bytes: int) -> None:
        """Append one document: its ids (1-D, any integer type) with the end-of-document token, and its size as UTF-8."""
        # Outside the type's range Megatron's writer wraps silently, and a model without the row fails far from here.
        assert ids.size and ids.min() >= 0 and ids.max() < self._vocab_size, "token ids lie outside the vocabulary"
        self._builder.add_document(ids.astype(self._dtype), [ids.size])
        self._documents += 1
        self._tokens += ids.size
        self._text_bytes += text_bytes

    def finish(self) -> Shard:
        """Write the index, make both files durable, and describe them."""
        paths = [self._folder / f"{self._name}{suffix}" for suffix in (".bin", ".idx")]
        self._builder.finalize(str(paths[1]))
        for path in paths:
            sync_file(path)
        return Shard(
            name=self._name,
            documents=self._documents,
            tokens=self._tokens,
            text_bytes=self._text_bytes,
            bin_size=paths[0].stat().st_size,
            idx_size=paths[1].stat().st_size,
            bin_hash=hash_file(paths[0]),
            idx_hash=hash_file(paths[1]),
        )


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> IndexedDataset:
    """Open a shard and check its index against its tokens.

    Raises:
        UserError: the index does not describe the tokens: another type, or other lengths than the manifest's.
    """
    prefix = folder / shard.name
    dataset = IndexedDataset(str(prefix))
    lengths, dtype = dataset.sequence_lengths, np.dtype(dataset.index.dtype)
    tokens = int(lengths.sum(dtype=np.int64))
    if dtype.name != manifest.dtype or tokens != shard.tokens or tokens * dtype.itemsize != shard.bin_size:
        found = f"{tokens} tokens of {dtype.name}"
        why = f"the manifest says {shard.tokens} tokens of {manifest.dtype}"
        raise UserError(Problem(f"{prefix}.idx", found, why, "prepare the data again into a new folder"))
    return dataset
