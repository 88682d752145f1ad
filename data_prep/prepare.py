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

from ibnorm_megatron.data.manifest import TOKENIZER, Manifest, Shard, Source, SplitName
from ibnorm_megatron.data.shards import ShardWriter, dtype_for
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.files import rename_directory
from ibnorm_megatron.progress import Progress

from .corpora import Corpus, find_corpora, read_documents
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
        validation_fraction: share of documents held out, chosen by a hash of their text.
        sentences: lines the tokenizer's trainer samples at most.
    """

    sources: tuple[str, ...]
    out: Path
    vocab_size: int
    tokenizer: TokenizerKind = "bpe"
    text_field: str = "text"
    validation_fraction: float = 0.05
    sentences: int = 200_000


def prepare(options: Options) -> Manifest:
    """Prepare a data folder. It appears under its name only when everything in it is complete.

    Raises:
        UserError: the folder exists, a source cannot be read, or a split would be empty.
    """
    if options.out.exists():
        raise UserError(
            Problem("--out", str(options.out), "it exists and is never overwritten", "choose another folder or remove it")
        )
    if not 0 < options.validation_fraction < 1:
        why = "it is the share of documents held out"
        raise UserError(Problem("--validation-fraction", str(options.validation_fraction), why, "use a number between 0 and 1"))
    corpora = find_corpora(options.sources)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_name(f".{options.out.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        manifest = _prepare_into(temporary, corpora, options)
        rename_directory(temporary, options.out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _prepare_into(folder: Path, corpora: list[Corpus], options: Options) -> Manifest:
    with Progress("training the tokenizer on", total=sum(c.size for c in corpora), unit="B") as progress:
        documents = (text for corpus in corpora for text in _counted(corpus, options, progress))
        tokenizer = train_tokenizer(documents, folder, options.tokenizer, options.vocab_size, options.sentences)
    writers = {split: ShardWriter(folder, split, tokenizer.vocab_size) for split in ("train", "validation")}
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / TOKENIZER))
    sources = []
    with Progress("encoding", total=sum(c.size for c in corpora), unit="B") as progress:
        for corpus in corpora:
            documents_read = text_bytes = 0
            for batch in _batches(_counted(corpus, options, progress)):
                for text, ids in zip(batch, encode(processor, batch, corpus.name), strict=True):
                    data = text.encode("utf-8")
                    array = np.array([*ids, tokenizer.end_of_document], dtype=np.int64)
                    split = split_of(data, options.validation_fraction)
                    writers[split].add(array, len(data))
                    if split == "train":
                        counts += np.bincount(array, minlength=counts.size)
                    documents_read, text_bytes = documents_read + 1, text_bytes + len(data)
            sources.append(Source(name=corpus.name, documents=documents_read, text_bytes=text_bytes))
    manifest = Manifest(
        dtype=np.dtype(dtype_for(tokenizer.vocab_size)).name,
        tokenizer=tokenizer,
        splits={split: [_finish(split, writer)] for split, writer in writers.items()},
        sources=sources,
        unigram_entropy=_entropy(counts),
    )
    manifest.write(folder)
    return manifest


def split_of(text: bytes, validation_fraction: float) -> SplitName:
    """Which split a document belongs to: decided by its text alone, so adding data never moves it."""
    held_out = xxhash.xxh3_64_intdigest(text) % _SPLIT_BUCKETS < validation_fraction * _SPLIT_BUCKETS
    return "validation" if held_out else "train"


def _finish(split: str, writer: ShardWriter) -> Shard:
    if writer.documents == 0:
        why = "no document fell into it"
        raise UserError(Problem(f"the {split} split", "empty", why, "give more documents or another --validation-fraction"))
    return writer.finish()


def _counted(corpus: Corpus, options: Options, progress: Progress) -> Iterator[str]:
    for text in read_documents(corpus, options.text_field):
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
