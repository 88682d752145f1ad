"""The unit of work: a piece of a corpus, read, cleaned, encoded and written by one worker.

A piece is some parts of one source, and becomes one shard for each split. What is in a piece depends on the sources and the
recipe alone, so a piece that is done again gives the same bytes, on whatever machine and beside however many workers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from pydantic import BaseModel, ConfigDict, Field

from ibnorm_megatron.data.manifest import SPLITS, Dropped, Example, Shard, SplitName, Tokenizer
from ibnorm_megatron.data.shards import OpenShard, ShardWriter
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.files import replacing, write_text

from .cleaning.cleaner import Cleaner
from .cleaning.duplicates import EXACT, KEPT, Fingerprints
from .encoders import Encoder, load_encoder
from .readers import Reader
from .recipe import Recipe
from .sources import BLOCK, Part, Source
from .splits import Splits, place_of

#: A corpus is cut into about this many pieces at most.
_MOST_PIECES = 1024

_EXAMPLES, _EXAMPLE_LENGTH = 3, 200

#: Characters of documents on which a faster encoder is compared with sentencepiece in every worker, about.
_COMPARED = 1 << 20

#: One document in so many is counted for the tokenizer's card.
_SAMPLE = 64

_WORD = re.compile(r"\S+")


class Piece(BaseModel):
    """Parts of the source of that number, which one worker reads in this order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: int
    corpus: str
    number: int
    parts: list[Part]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.corpus}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes to read, for progress."""
        return sum(part.size for part in self.parts)


def pieces_of(sources: Sequence[Source], piece_bytes: int | None = None) -> list[Piece]:
    """All pieces, source after source.

    Args:
        sources: from :func:`data_prep.sources.find_sources`.
        piece_bytes: bytes of a piece; 64 MiB if None, and more where that gave more than 1,024 pieces of a source.
    """
    pieces = []
    for number, source in enumerate(sources):
        total = sum(part.size for part in source.parts)
        most = piece_bytes or BLOCK * max(1, -(-total // (BLOCK * _MOST_PIECES)))
        groups: list[list[Part]] = []
        size = 0
        for part in source.parts:
            if not groups or size + part.size > most or part.kind == "dataset":
                groups.append([])
                size = 0
            groups[-1].append(part)
            size += part.size
        pieces += [Piece(source=number, corpus=source.name, number=i, parts=group) for i, group in enumerate(groups)]
    return pieces


class PieceReport(BaseModel):
    """What became of a piece. Written last: a piece that has a report is complete.

    ``sampled_words`` are words between white space of some documents, and ``sampled_tokens`` their tokens. ``lowest`` and
    ``highest`` are where hashes of kept documents lie (:func:`data_prep.splits.place_of`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: dict[SplitName, Shard]
    source_hash: str
    documents_read: int
    text_bytes_read: int
    replaced: int
    removed_lines: int
    dropped: list[Dropped]
    sampled_documents: int
    sampled_words: int
    sampled_tokens: int
    lowest: float = Field(ge=0, le=1)
    highest: float = Field(ge=0, le=1)


Tell = Callable[[int, int, int], None]  # bytes read, documents and tokens written since the last call


class Work:
    """Everything a worker needs. It travels to worker processes; what is slow to build is built there, when first needed.

    Args:
        folder: where shards go.
        recipe: what was asked for.
        sources: found.
        tokenizer: its record, once there is one.
    """

    def __init__(self, folder: Path, recipe: Recipe, sources: Sequence[Source], tokenizer: Tokenizer | None = None) -> None:
        self.folder, self.recipe, self.sources, self.tokenizer = folder, recipe, list(sources), tokenizer
        self.splits = Splits(recipe.validation_fraction, recipe.test_fraction)
        self._cleaner: Cleaner | None = None
        self._encoder: Encoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cleaner": None, "_encoder": None}

    @property
    def side(self) -> Path:
        """Where files lie that the finished folder does not have."""
        return self.folder / "work"

    def report_path(self, piece: Piece) -> Path:
        """A piece's report."""
        return self.side / f"{piece.name}.json"

    def counts_path(self, piece: Piece) -> Path:
        """How often each token occurs in a piece's training documents."""
        return self.side / f"{piece.name}.counts.npy"

    def fingerprints_path(self, piece: Piece) -> Path:
        """A piece's fingerprints, for duplicates."""
        return self.side / f"{piece.name}.fingerprints.npy"

    def verdicts_path(self, piece: Piece) -> Path:
        """Which of a piece's documents are duplicates."""
        return self.side / f"{piece.name}.verdicts.npy"

    @property
    def cleaner(self) -> Cleaner:
        """Of this process."""
        self._cleaner = self._cleaner or Cleaner(self.recipe.cleaning)
        return self._cleaner

    def encoder(self, piece: Piece) -> Encoder:
        """Of this process; a faster library's is tried on the first documents of the first piece it gets."""
        if self._encoder is None:
            assert self.tokenizer is not None
            wanted, sample = self.recipe.tokenizer.encoder, []
            if wanted != "sentencepiece":
                sample = list(_beginning(self.texts(piece.source, piece.parts)))
            self._encoder = load_encoder(self.folder, self.tokenizer, wanted, sample)
        return self._encoder

    def texts(self, source: int, parts: Sequence[Part], read: Callable[[int], None] = lambda size: None) -> Iterator[str]:
        """Documents of a source's parts that cleaning keeps, as cleaned; duplicates among them."""
        reader = Reader(self.sources[source], self.recipe.encoding_errors, read)
        for part in parts:
            for text, _ in reader.documents(part):
                cleaned = self.cleaner(text)
                if cleaned.dropped_by is None and cleaned.text:
                    yield cleaned.text

    def fingerprint(self, piece: Piece, tell: Tell) -> None:
        """Write the fingerprints of a piece's documents."""
        fingerprints = Fingerprints(self.recipe.cleaning)
        for text in self.texts(piece.source, piece.parts, lambda size: tell(size, 0, 0)):
            fingerprints.add(text)
            tell(0, 1, 0)
        fingerprints.write(self.fingerprints_path(piece))

    def encode(self, piece: Piece, tell: Tell) -> None:
        """Write a piece's shards, and its report at the end."""
        assert self.tokenizer is not None
        verdicts_path = self.verdicts_path(piece)
        verdicts = np.load(verdicts_path) if verdicts_path.exists() else None
        encoding = _Encoding(self, piece, self.tokenizer, verdicts)
        try:
            report = encoding.run(tell)
        finally:
            encoding.close()
        write_text(self.report_path(piece), report.model_dump_json())


def _beginning(texts: Iterator[str]) -> Iterator[str]:
    taken = 0
    for text in texts:
        yield text[:_COMPARED]
        taken += len(text)
        if taken >= _COMPARED:
            return


class _Encoding:
    """One piece on its way to shards."""

    def __init__(self, work: Work, piece: Piece, tokenizer: Tokenizer, verdicts: np.ndarray | None) -> None:
        self._work, self._piece, self._tokenizer, self._verdicts = work, piece, tokenizer, verdicts
        self._writers = {split: ShardWriter(work.folder, f"{piece.name}-{split}", tokenizer.vocab_size) for split in SPLITS}
        self._end = np.array([tokenizer.end_of_document], dtype=np.int32)
        self._drops: dict[str, Dropped] = {}
        self._hash = xxhash.xxh3_64()
        self._read = self._bytes_read = self._removed = self._passed = 0
        self._sampled_documents = self._words = self._word_tokens = 0
        self._lowest, self._highest = 1.0, 0.0

    def run(self, tell: Tell) -> PieceReport:
        work, piece = self._work, self._piece
        encoder = work.encoder(piece)
        reader = Reader(work.sources[piece.source], work.recipe.encoding_errors, lambda size: tell(size, 0, 0))
        for part in piece.parts:
            for text, where in reader.documents(part):
                data = text.encode("utf-8")
                self._hash.update(len(data).to_bytes(8, "little"))
                self._hash.update(data)
                self._read, self._bytes_read = self._read + 1, self._bytes_read + len(data)
                if (kept := self._kept(text, data, where)) is not None:
                    tell(0, 1, self._write(encoder, kept, data if kept is text else kept.encode("utf-8"), where))
        shards = {split: shard for split, writer in self._writers.items() if (shard := writer.finish())}
        self._count(shards)
        return PieceReport(
            shards=shards,
            source_hash=self._hash.hexdigest(),
            documents_read=self._read,
            text_bytes_read=self._bytes_read,
            replaced=reader.replaced,
            removed_lines=self._removed,
            dropped=list(self._drops.values()),
            sampled_documents=self._sampled_documents,
            sampled_words=self._words,
            sampled_tokens=self._word_tokens,
            lowest=self._lowest,
            highest=self._highest,
        )

    def close(self) -> None:
        for writer in self._writers.values():
            writer.discard()

    def _kept(self, text: str, data: bytes, where: str) -> str | None:
        """The cleaned text, or None for a document that is dropped, which is then reported."""
        cleaned = self._work.cleaner(text)
        if cleaned.dropped_by is not None:
            self._drop(cleaned.dropped_by, cleaned.detail, text, data, where)
            return None
        if not cleaned.text:
            self._drop("empty", "it has no text", text, data, where)
            return None
        self._passed += 1
        if self._verdicts is not None and (verdict := self._verdicts[self._passed - 1]) != KEPT:
            rule, why = ("exact_duplicates", "equals") if verdict == EXACT else ("near_duplicates", "is nearly")
            self._drop(rule, f"{why} an earlier document", text, data, where)
            return None
        self._removed += cleaned.removed_lines
        return text if cleaned.text == text else cleaned.text

    def _drop(self, rule: str, why: str, text: str, data: bytes, where: str) -> None:
        before = self._drops.get(rule) or Dropped(rule=rule, documents=0, text_bytes=0, examples=[])
        examples = before.examples
        if len(examples) < _EXAMPLES:
            examples = [*examples, Example(where=where, text=text[:_EXAMPLE_LENGTH], why=why)]
        self._drops[rule] = Dropped(
            rule=rule, documents=before.documents + 1, text_bytes=before.text_bytes + len(data), examples=examples
        )

    def _write(self, encoder: Encoder, text: str, data: bytes, where: str) -> int:
        place = place_of(data)
        self._lowest, self._highest = min(self._lowest, place), max(self._highest, place)
        writer, tokens = self._writers[self._work.splits.at(place)], 1
        try:
            for ids in encoder.runs(text):
                writer.extend(ids)
                tokens += ids.size
        except UserError as error:
            raise UserError(*(replace(problem, where=f"the document at {where}") for problem in error.problems)) from None
        writer.extend(self._end)
        writer.end_document(len(data))
        if self._passed % _SAMPLE == 1:
            self._sampled_documents += 1
            self._words += sum(1 for _ in _WORD.finditer(text))  # a list of the words of a giant row would be gigabytes
            self._word_tokens += tokens - 1
        return tokens

    def _count(self, shards: dict[SplitName, Shard]) -> None:
        size = self._tokenizer.vocab_size
        counts = np.zeros(size, dtype=np.int64)
        if "train" in shards:
            tokens = OpenShard(self._work.folder / shards["train"].name).tokens
            for start in range(0, tokens.size, 1 << 22):
                counts += np.bincount(tokens[start : start + (1 << 22)], minlength=size)
        with replacing(self._work.counts_path(self._piece)) as file:
            np.save(file, counts)
