"""``ibnorm prepare``: read sources, train a tokenizer, write train and validation shards and their manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import xxhash

from ibnorm_megatron.data.manifest import Corpus as CorpusRecord
from ibnorm_megatron.data.manifest import Manifest, SplitName
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import rename_directory
from ibnorm_megatron.progress import Progress

from .corpora import Corpus, find_corpora, longest_document, read_documents
from .tokenizer import TokenizerKind, encode, train_tokenizer

_BATCH = 64  # documents encoded at once
_SPLIT_BUCKETS = 1_000_000


@dataclass(frozen=True)
class Options:
    """What ``ibnorm prepare`` was asked for.

    Attributes:
        sources: files, folders, or ``python-stdlib``.
        out: the folder to make; it must not exist.
        vocab_size: entries of the tokenizer.
        tokenizer: the kind of sentencepiece model.
        text_field: field of JSON lines and parquet rows that holds the text.
        validation_fraction: share of documents held out, chosen by :class:`Holdout`.
        sentences: lines the tokenizer's trainer samples at most.
    """

    sources: tuple[str, ...]
    out: Path
    vocab_size: int
    tokenizer: TokenizerKind = "bpe"
    text_field: str = "text"
    validation_fraction: float = 0.05
    sentences: int = 200_000


class Holdout:
    """Which documents are for validation: those whose hash falls below ``fraction`` of the hashes' range.

    So a document's own text decides, and adding others does not move it. Few documents may all fall on one side: the one
    with the lowest hash is for validation in any case, the one with the highest for training.
    """

    def __init__(self, fraction: float) -> None:
        self._limit, self._lowest, self._highest = fraction * _SPLIT_BUCKETS, _SPLIT_BUCKETS, -1

    def watch(self, documents: Iterator[str]) -> Iterator[str]:
        """The documents as they come; all of them have to pass before the first :meth:`split_of`.

        Raises:
            UserError: at the end, if there were not two different documents.
        """
        for text in documents:
            bucket = _bucket(text.encode("utf-8"))
            self._lowest, self._highest = min(self._lowest, bucket), max(self._highest, bucket)
            yield text
        if self._lowest >= self._highest:
            found = "the same document again and again, or a single one" if self._highest >= 0 else "without any text"
            why = "training and validation need different documents"
            mend = "give more rows, more files, or plain text of more lines: it is cut where lines end"
            raise UserError(Problem("all that the sources hold", found, why, mend))

    def split_of(self, text: bytes) -> SplitName:
        """The split of a document, given as UTF-8."""
        limit = min(max(self._limit, self._lowest + 1), self._highest)
        return "validation" if _bucket(text) < limit else "train"


def _bucket(text: bytes) -> int:
    return xxhash.xxh3_64_intdigest(text) % _SPLIT_BUCKETS


def prepare(options: Options) -> Manifest:
    """Prepare a data folder. It appears under its name only when everything in it is complete.

    Raises:
        UserError: the folder exists or cannot be made, a source cannot be read, or a split would be empty.
    """
    out = Path(os.path.abspath(os.path.expanduser(options.out)))
    if os.path.lexists(out):
        raise UserError(
            Problem("--out", str(options.out), "it exists and is never overwritten", "choose another folder or remove it")
        )
    if not 0 < options.validation_fraction < 1:
        why = "it is the share of documents held out"
        raise UserError(Problem("--validation-fraction", str(options.validation_fraction), why, "use a number between 0 and 1"))
    corpora = find_corpora(options.sources)
    try:
        return _prepare_as(out, corpora, options)
    except OSError as error:  # the sources' own are UserErrors already
        why = f"it cannot be written ({error.strerror})"
        raise UserError(Problem("--out", str(options.out), why, "choose another folder or make room for it")) from error


def _prepare_as(out: Path, corpora: list[Corpus], options: Options) -> Manifest:
    # Work in the nearest folder above that exists: those between are made with the result, and not if there is none.
    above = next(folder for folder in out.parents if os.path.lexists(folder))
    temporary = above / f".{out.name}.tmp-{os.getpid()}"
    temporary.mkdir()
    try:
        manifest = _prepare_into(temporary, corpora, options)
        out.parent.mkdir(parents=True, exist_ok=True)
        rename_directory(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # nothing has that name any more if all went well
    return manifest


def _prepare_into(folder: Path, corpora: list[Corpus], options: Options) -> Manifest:
    longest, holdout = longest_document(corpora), Holdout(options.validation_fraction)
    with Progress("training the tokenizer on", total=sum(c.size for c in corpora), unit="B") as progress:
        documents = (text for corpus in corpora for text in _counted(corpus, options, longest, progress))
        watched = holdout.watch(documents)
        tokenizer = train_tokenizer(watched, folder, options.tokenizer, options.vocab_size, options.sentences)
    from ibnorm_megatron.data.shards import ShardWriter, dtype_for  # brings torch: a refusal above need not wait for it

    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / tokenizer.file))
    records = []
    with Progress("encoding", total=sum(c.size for c in corpora), unit="B") as progress:
        for number, corpus in enumerate(corpora):
            names: tuple[SplitName, ...] = ("train", "validation")
            writers = {split: ShardWriter(folder, f"{number}-{split}", tokenizer.vocab_size) for split in names}
            documents_read = text_bytes = 0
            for batch in _batches(_counted(corpus, options, longest, progress)):
                for text, ids in zip(batch, encode(processor, batch, corpus.name), strict=True):
                    data = text.encode("utf-8")
                    array = np.array([*ids, tokenizer.end_of_document], dtype=np.int64)
                    split = holdout.split_of(data)
                    writers[split].add(array, len(data))
                    if split == "train":
                        counts += np.bincount(array, minlength=counts.size)
                    documents_read, text_bytes = documents_read + 1, text_bytes + len(data)
            shards = {split: [shard] if (shard := writer.finish()) else [] for split, writer in writers.items()}
            records.append(
                CorpusRecord(
                    name=str(number),
                    source=corpus.name,
                    source_hash="",
                    documents_read=documents_read,
                    text_bytes_read=text_bytes,
                    splits=shards,
                )
            )
    manifest = Manifest(
        dtype=np.dtype(dtype_for(tokenizer.vocab_size)).name,
        tokenizer=tokenizer,
        held_out={"validation": options.validation_fraction},
        corpora=records,
        unigram_entropy=_entropy(counts),
        recipe_hash="",
    )
    manifest.write(folder)
    return manifest


def _counted(corpus: Corpus, options: Options, longest: int, progress: Progress) -> Iterator[str]:
    for text in read_documents(corpus, options.text_field, longest):
        if text:
            yield text
        progress.advance(len(text))


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in documents:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _entropy(counts: np.ndarray) -> float:
    """Entropy of the empirical distribution, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
