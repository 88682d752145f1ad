"""One shard, checked from its first byte to its last: sizes and hashes, the index against the tokens, the tokens as text.

Files are read and not mapped where they may be damaged: a read fails with an exception, a mapping with a signal. Every kind of
damage is told once a shard, with the first place where it is and how many there are.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from ibnorm_megatron.data.manifest import MANIFEST, Shard, SplitName, check_file
from ibnorm_megatron.data.shards import Index, read_index
from ibnorm_megatron.errors import Problem

from .splits import Splits, place_of_hash

MEND = "restore the file or prepare the data again into a new folder"

#: Bytes that are read at once; documents of an index that are looked at, and tokens that become text, at once.
_CHUNK, _BLOCK, _RUN = 1 << 22, 1 << 16, 1 << 20

#: One training document in so many is looked at as text; all that are held out are, since they are few and matter most.
SAMPLE = 64

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Reading:
    """What the manifest and the tokenizer say of every shard.

    Attributes:
        dtype: name of the type of ids.
        vocab_size: ids are below this.
        end: the end-of-document token.
        texts: what each token stands for, ``[vocab_size]``; None if the tokenizer does not tell.
        splits: which documents are held out.
        full: look at every document as text.
    """

    dtype: str
    vocab_size: int
    end: int
    texts: list[bytes] | None
    splits: Splits
    full: bool

    def step(self, split: SplitName) -> int:
        """One document of a split in so many is looked at as text."""
        return 1 if self.full or split != "train" else SAMPLE


class ShardCheck:
    """One shard, being checked.

    Attributes:
        findings: what is wrong.
        counts: how often each token of the vocabulary occurs, int64 ``[vocab_size]``.
    """

    def __init__(self, folder: Path, shard: Shard, split: SplitName, reading: Reading, advance: Advance) -> None:
        """Name the shard; :meth:`run` checks it.

        Args:
            folder: of the shard.
            shard: what the manifest says of it.
            split: that the manifest has it in.
            reading: how to read it.
            advance: is told the bytes of ``.bin`` that were read.
        """
        self._shard, self._split, self._reading, self._advance = shard, split, reading, advance
        self._bin, self._idx = folder / f"{shard.name}.bin", folder / f"{shard.name}.idx"
        self._tokens = self._outside = self._lacking = self._inside = 0
        self._first_outside: tuple[int, int] = (0, 0)
        self._first_lacking = self._first_inside = 0
        self.counts = np.zeros(reading.vocab_size, dtype=np.int64)
        self.findings: list[Problem] = []

    def run(self) -> None:
        """Check everything. Nothing that stands in the files raises."""
        before = len(self.findings)
        index = self._open_index()
        documents = index is not None and self._check_documents(index)
        if not self._scan(index if documents else None):
            return
        if index is not None and documents:
            self._compare(index)
        self._check_text()
        if index is not None and self._reading.texts is not None and not self.findings[before:]:
            self._check_splits(index)

    def _found(self, where: object, value: str, why: str, mend: str = MEND) -> None:
        self.findings.append(Problem(str(where), value, why, mend))

    def _open_index(self) -> Index | None:
        if problem := check_file(self._idx, self._shard.idx_size, self._shard.idx_hash):
            self.findings.append(problem)
            if not os.path.isfile(self._idx):
                return None
        try:
            index = read_index(self._idx)
        except (OSError, ValueError) as error:
            if not problem:
                self._found(self._idx, "no index", " ".join(str(error).split()))
            return None
        if index.dtype != self._reading.dtype:
            self._found(self._idx, f"for ids of {index.dtype}", f"{MANIFEST} says {self._reading.dtype}")
            return None
        return index

    def _check_documents(self, index: Index) -> bool:
        """Lengths, offsets and document numbers; whether lengths are such that documents can be found by them."""
        documents, size = index.lengths.size, np.dtype(index.dtype).itemsize
        if documents != self._shard.documents:
            self._found(self._idx, f"of {documents:,} documents", f"{MANIFEST} says {self._shard.documents:,}")
        wrong: dict[str, tuple[int, int]] = {}  # the first of the documents, and how many
        offset = 0
        for begin in range(0, documents, _BLOCK):
            lengths = index.lengths[begin : begin + _BLOCK].astype(np.int64)
            ends = offset + np.cumsum(lengths) * size
            for kind, bad in {
                "negative": lengths < 0,
                "empty": lengths == 0,
                "blank": lengths == 1,
                "offset": index.offsets[begin : begin + _BLOCK] != ends - lengths * size,
            }.items():
                if count := int(np.count_nonzero(bad)):
                    first, before = wrong.get(kind, (begin + int(np.argmax(bad)), 0))
                    wrong[kind] = (first, before + count)
            offset = int(ends[-1])
        if "negative" in wrong:
            first, count = wrong["negative"]
            length = f"{index.lengths[first]} tokens long"
            self._found(f"document {first} of {self._idx}", length, f"no length is negative, and {count:,} are")
        if "empty" in wrong:
            first, count = wrong["empty"]
            why = f"every document has its end-of-document token, and {count:,} have nothing"
            self._found(f"document {first} of {self._idx}", "empty", why)
        if "blank" in wrong:
            first, count = wrong["blank"]
            why = f"it holds one token, which ends it, and no text; so do {count:,} in all"
            self._found(f"document {first} of {self._idx}", "empty", why)
        if "offset" in wrong:
            first, count = wrong["offset"]
            why = f"documents follow each other without a gap, and {count:,} do not begin where the one before ends"
            self._found(f"document {first} of {self._idx}", f"said to begin at byte {index.offsets[first]}", why)
        for begin in range(0, documents + 1, _BLOCK):
            numbers = index.documents[begin : begin + _BLOCK]
            if (bad := numbers != np.arange(begin, begin + numbers.size)).any():
                at = begin + int(np.argmax(bad))
                why = "every sequence is a document here, so these numbers go 0, 1, 2 and so on"
                self._found(f"document number {at} of {self._idx}", str(index.documents[at]), why)
                break
        return not wrong.keys() & {"negative", "empty"}

    def _scan(self, index: Index | None) -> bool:
        """Read all tokens: the hash, ids, and where documents end. False if they cannot be read."""
        ends = _Ends(index.lengths) if index is not None else None
        digest, size, dtype = xxhash.xxh3_64(), 0, np.dtype(self._reading.dtype)
        try:
            if not self._bin.is_file():
                self._found(self._bin, "missing", f"{MANIFEST} names it")
                return False
            with open(self._bin, "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    self._look_at(np.frombuffer(chunk, dtype=dtype, count=len(chunk) // dtype.itemsize), ends)
                    size += len(chunk)
                    self._advance(len(chunk))
        except OSError as error:
            self._found(self._bin, "not readable", str(error.strerror))
            return False
        if size != self._shard.bin_size:
            self._found(self._bin, f"{size} bytes", f"{MANIFEST} says {self._shard.bin_size}")
        elif digest.hexdigest() != self._shard.bin_hash:
            self._found(self._bin, "changed", f"its hash is not the one in {MANIFEST}")
        if size % dtype.itemsize:
            self._found(self._bin, f"{size} bytes", f"ids take {dtype.itemsize} bytes each")
        return True

    def _look_at(self, ids: np.ndarray, ends: _Ends | None) -> None:
        outside = (ids < 0) | (ids >= self._reading.vocab_size)
        valid = ids
        if count := int(np.count_nonzero(outside)):
            if not self._outside:
                first = int(np.argmax(outside))
                self._first_outside = (self._tokens + first, int(ids[first]))
            self._outside += count
            valid = ids[~outside]
        self.counts += np.bincount(valid, minlength=self.counts.size)
        if ends is not None:
            document, expected = ends.below(self._tokens + ids.size)
            found = np.flatnonzero(ids == self._reading.end) + self._tokens
            if not np.array_equal(found, expected):
                lacking = np.setdiff1d(expected, found, assume_unique=True)
                inside = np.setdiff1d(found, expected, assume_unique=True)
                if lacking.size and not self._lacking:
                    self._first_lacking = document + int(np.searchsorted(expected, lacking[0]))
                if inside.size and not self._inside:
                    self._first_inside = document + int(np.searchsorted(expected, inside[0]))
                self._lacking, self._inside = self._lacking + lacking.size, self._inside + inside.size
        self._tokens += ids.size

    def _compare(self, index: Index) -> None:
        """The index with the tokens: as many, and documents that end where it says."""
        tokens, end = int(index.lengths.sum(dtype=np.int64)), self._reading.end
        if tokens != self._tokens:
            self._found(self._idx, f"of {tokens:,} tokens", f"{self._bin.name} has {self._tokens:,}")
            return  # every document ends elsewhere then
        if self._lacking:
            why = f"every document ends with this token, and {self._lacking:,} do not"
            where = f"the last token of document {self._first_lacking} of {self._bin}"
            self._found(where, f"not the end-of-document token {end}", why)
        if self._inside:
            why = f"it ends every document and stands nowhere else, and {self._inside:,} times it does"
            self._found(f"a token inside document {self._first_inside} of {self._bin}", f"the end-of-document token {end}", why)

    def _check_text(self) -> None:
        """Ids that the tokenizer has, and as many of them and as many bytes of text as the manifest says."""
        shard, reading = self._shard, self._reading
        if self._tokens != shard.tokens:
            self._found(self._bin, f"of {self._tokens:,} tokens", f"{MANIFEST} says {shard.tokens:,}")
        if self._outside:
            place, value = self._first_outside
            why = f"ids of this tokenizer go from 0 to {reading.vocab_size - 1}, and {self._outside:,} do not"
            self._found(f"token {place} of {self._bin}", str(value), why)
        elif reading.texts is not None:
            sizes = np.array([len(text) for text in reading.texts], dtype=np.int64)
            sizes[reading.end] = 0
            if (text_bytes := int(self.counts @ sizes)) != shard.text_bytes:
                why = f"{MANIFEST} says {shard.text_bytes:,}, so they are not the tokens of that text"
                self._found(f"the text that {self._bin} stands for", f"{text_bytes:,} bytes long", why)

    def _check_splits(self, index: Index) -> None:
        """Documents as text: that it is text, and that its hash puts it where it is."""
        step = self._reading.step(self._split)
        looked = no_text = misplaced = untold = 0
        first_no_text = first_misplaced = 0
        right = ""
        try:
            with open(self._bin, "rb") as file:
                for document in range(0, index.lengths.size, step):
                    looked += 1
                    length = int(index.lengths[document])
                    split = self._split_of(file, int(index.offsets[document]), length - 1)
                    untold += length * np.dtype(self._reading.dtype).itemsize if step == 1 else 0
                    if untold >= _CHUNK:  # telling takes longer than a short document
                        self._advance(untold)
                        untold = 0
                    if split is None:
                        first_no_text, no_text = first_no_text if no_text else document, no_text + 1
                    elif split != self._split:
                        first_misplaced, right = (first_misplaced, right) if misplaced else (document, split)
                        misplaced += 1
        except OSError as error:
            self._found(self._bin, "not readable", str(error.strerror))
            return
        self._advance(untold)
        if no_text:
            why = f"what its tokens stand for is not UTF-8, and so with {no_text:,} of {looked:,} documents looked at"
            self._found(f"document {first_no_text} of {self._bin}", "no text", why)
        if misplaced:
            why = f"the hash of its text puts it into {right}, and so into another with {misplaced:,} of {looked:,} looked at"
            self._found(f"document {first_misplaced} of {self._bin}", f"in the {self._split} split", why)

    def _split_of(self, file: BinaryIO, offset: int, tokens: int) -> SplitName | None:
        """Where a document belongs by its text, or None if it is no text. A giant one takes no more memory than others."""
        reading = self._reading
        dtype = np.dtype(reading.dtype)
        if file.tell() != offset:
            file.seek(offset)
        decoder, digest = codecs.getincrementaldecoder("utf-8")(), xxhash.xxh3_64()
        try:
            for begin in range(0, tokens, _RUN):
                text = self._text(file.read(min(_RUN, tokens - begin) * dtype.itemsize), dtype)
                if tokens <= _RUN:  # nearly always
                    text.decode("utf-8")
                    return reading.splits.of(text)
                decoder.decode(text)
                digest.update(text)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
        return reading.splits.at(place_of_hash(digest.intdigest()))

    def _text(self, data: bytes, dtype: np.dtype) -> bytes:
        texts = self._reading.texts
        assert texts is not None
        return b"".join(map(texts.__getitem__, np.frombuffer(data, dtype=dtype).tolist()))


class _Ends:
    """Where documents end, by their lengths, which are all positive: asked for once from the first token to the last."""

    def __init__(self, lengths: np.ndarray) -> None:
        self._lengths, self._next, self._position = lengths, 0, 0

    def below(self, stop: int) -> tuple[int, np.ndarray]:
        """The next document, and the last tokens of it and those behind it, as far as these lie below ``stop``."""
        first, found = self._next, [np.empty(0, dtype=np.int64)]
        while self._next < self._lengths.size:
            ends = self._position + np.cumsum(self._lengths[self._next : self._next + _BLOCK], dtype=np.int64)
            taken = int(np.searchsorted(ends, stop, side="right"))
            if taken:
                found.append(ends[:taken] - 1)
                self._next, self._position = self._next + taken, int(ends[taken - 1])
            if taken < ends.size:
                break
        return first, np.concatenate(found)
