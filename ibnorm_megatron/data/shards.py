"""Token shards on disk, in the format of Megatron-core's IndexedDataset: the one place that writes and opens them.

``NAME.bin`` is token ids, document after document. ``NAME.idx`` is, in little-endian bytes: the magic ``MMIDIDX`` and two
zeros, version 1 (uint64), a code for the type of ids (uint8), the number n of sequences and n + 1 (uint64 each), n lengths in
tokens (int32), n offsets into ``.bin`` in bytes (int64), and 0 to n (int64), because every sequence is a document. Megatron's
own writer keeps Python lists of all these, wraps ids silently and brings torch; this one keeps 4 bytes a document.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import Problem, UserError
from ..files import hash_file, sync_directory
from .manifest import Manifest, Shard

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_CODES = {"int32": 4, "uint16": 8}
_CHUNK = 1 << 20  # documents whose offsets are written at once


def dtype_for(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """The narrowest type that Megatron's format knows and every id fits."""
    return np.uint16 if vocab_size <= np.iinfo(np.uint16).max + 1 else np.int32


class ShardWriter:
    """Writes one shard into ``folder``, document by document, under a temporary name.

    :meth:`finish` makes both files durable and gives them their names, the index last: a shard that has an index is complete.
    :meth:`discard` removes what was written so far.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self._folder, self._name, self._vocab_size = folder, name, vocab_size
        self._dtype = np.dtype(dtype_for(vocab_size))
        self._temporary = {suffix: folder / f".{name}{suffix}.tmp-{os.getpid()}" for suffix in (".bin", ".idx")}
        self._bin: BinaryIO = open(self._temporary[".bin"], "wb")  # noqa: SIM115 (until finish or discard)
        self._lengths = array("i")
        self._tokens = self._text_bytes = self._open = 0

    @property
    def documents(self) -> int:
        """Documents that are complete."""
        return len(self._lengths)

    def extend(self, ids: np.ndarray) -> None:
        """Append ids (1-D, any integer type) to the document that is being written."""
        # Outside the type's range numpy wraps silently, and a model without the row fails far from here.
        assert not ids.size or (ids.min() >= 0 and ids.max() < self._vocab_size), "token ids lie outside the vocabulary"
        self._bin.write(ids.astype(self._dtype, copy=False).tobytes())
        self._open += ids.size

    def end_document(self, text_bytes: int) -> None:
        """End the document; ``text_bytes`` is its size as UTF-8."""
        assert 0 < self._open < 2**31, "a document has from 1 to 2^31 - 1 tokens in this format"
        self._lengths.append(self._open)
        self._tokens, self._text_bytes, self._open = self._tokens + self._open, self._text_bytes + text_bytes, 0

    def add(self, ids: np.ndarray, text_bytes: int) -> None:
        """Append one whole document: its ids with the end-of-document token, and its size as UTF-8."""
        self.extend(ids)
        self.end_document(text_bytes)

    def finish(self) -> Shard | None:
        """Make the shard durable and describe it; None, and no files, if it has no document."""
        assert not self._open, "the last document has not ended"
        if not self._lengths:
            self.discard()
            return None
        _finish(self._bin)
        with open(self._temporary[".idx"], "wb") as index:
            self._write_index(index)
            _finish(index)
        final = {suffix: self._folder / f"{self._name}{suffix}" for suffix in self._temporary}
        for suffix in (".bin", ".idx"):
            os.replace(self._temporary[suffix], final[suffix])
        sync_directory(self._folder)
        return Shard(
            name=self._name,
            documents=len(self._lengths),
            tokens=self._tokens,
            text_bytes=self._text_bytes,
            bin_size=final[".bin"].stat().st_size,
            idx_size=final[".idx"].stat().st_size,
            bin_hash=hash_file(final[".bin"]),
            idx_hash=hash_file(final[".idx"]),
        )

    def discard(self) -> None:
        """Remove everything; after :meth:`finish` there is nothing to remove."""
        self._bin.close()
        for path in self._temporary.values():
            path.unlink(missing_ok=True)

    def _write_index(self, index: BinaryIO) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        index.write(_HEADER.pack(_MAGIC, 1, _CODES[self._dtype.name], lengths.size, lengths.size + 1))
        index.write(lengths.tobytes())
        offset = 0
        for start in range(0, lengths.size, _CHUNK):
            ends = offset + np.cumsum(lengths[start : start + _CHUNK], dtype=np.int64) * self._dtype.itemsize
            index.write(np.concatenate([[offset], ends[:-1]]).astype(np.int64).tobytes())
            offset = int(ends[-1])
        for start in range(0, lengths.size + 1, _CHUNK):
            index.write(np.arange(start, min(start + _CHUNK, lengths.size + 1), dtype=np.int64).tobytes())


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


@dataclass(frozen=True)
class Index:
    """A ``.idx`` file, mapped from disk; its numbers may be anything.

    Attributes:
        dtype: name of the type of ids.
        lengths: tokens of every document, int32 ``[documents]``.
        offsets: where each begins in ``.bin``, in bytes, int64 ``[documents]``.
        documents: which sequence each document begins with, and the end, int64 ``[documents + 1]``.
    """

    dtype: str
    lengths: np.ndarray
    offsets: np.ndarray
    documents: np.ndarray


def read_index(path: Path) -> Index:
    """Map a ``.idx`` file.

    Raises:
        ValueError: its beginning or its size is not what this format says; the message says how.
        OSError: it cannot be read.
    """
    index = np.memmap(path, dtype=np.uint8, mode="r")
    if index.size < _HEADER.size:
        raise ValueError(f"its index has {index.size} bytes")
    magic, version, code, documents, ends = _HEADER.unpack(index[: _HEADER.size].tobytes())
    types = {code: name for name, code in _CODES.items()}
    if magic != _MAGIC or version != 1 or code not in types or ends != documents + 1:
        raise ValueError("its index does not begin as Megatron's do")
    if index.size != _HEADER.size + documents * 12 + ends * 8:
        raise ValueError(f"its index has {index.size} bytes, which is not what {documents} documents take")
    lengths, offsets = _HEADER.size + 4 * documents, _HEADER.size + 12 * documents
    return Index(
        types[code],
        index[_HEADER.size : lengths].view(np.int32),
        index[lengths:offsets].view(np.int64),
        index[offsets:].view(np.int64),
    )


class OpenShard:
    """A shard's documents, mapped from disk. Arrays taken from it are views of the mapping, and keep it alive.

    Attributes:
        tokens: ids of all documents, ``[tokens]``.
        lengths: tokens of every document, int32 ``[documents]``.
        offsets: where each begins in ``tokens``, in bytes, int64 ``[documents]``.
    """

    def __init__(self, prefix: Path) -> None:
        """Map ``prefix.bin`` and ``prefix.idx``.

        Raises:
            ValueError: they are not what this format says; the message says how.
            OSError: one of them cannot be read.
        """
        index = read_index(prefix.with_name(prefix.name + ".idx"))
        self.lengths, self.offsets = index.lengths, index.offsets
        self.tokens: np.ndarray = np.memmap(prefix.with_name(prefix.name + ".bin"), dtype=index.dtype, mode="r")

    def __len__(self) -> int:
        return self.lengths.size

    def __getitem__(self, document: int) -> np.ndarray:
        """Ids of a document, with its end-of-document token."""
        begin = int(self.offsets[document]) // self.tokens.itemsize
        return self.tokens[begin : begin + int(self.lengths[document])]


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> OpenShard:
    """Open a shard and check its index against its tokens.

    Raises:
        UserError: the index does not describe the tokens: another type, or other documents or lengths than the manifest's.
    """
    prefix, mend = folder / shard.name, "prepare the data again into a new folder"
    try:
        opened = OpenShard(prefix)
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(prefix), "not a shard", " ".join(str(error).split()), mend)) from None
    tokens, dtype = int(opened.lengths.sum(dtype=np.int64)), opened.tokens.dtype
    if dtype.name != manifest.dtype or tokens != shard.tokens or tokens != opened.tokens.size:
        found = f"{tokens} tokens of {dtype.name}, of {opened.tokens.size} in the file"
        why = f"the manifest says {shard.tokens} tokens of {manifest.dtype}"
        raise UserError(Problem(f"{prefix}.idx", found, why, mend))
    if len(opened) != shard.documents:
        why = f"the manifest says {shard.documents}"
        raise UserError(Problem(f"{prefix}.idx", f"{len(opened)} documents", why, mend))
    return opened
