"""``ibnorm data inspect``: what is in a prepared folder, for a person to look at.

Whatever the size of the folder, this needs memory for one block of an index and one of tokens: lengths are counted, not
collected, and tokens are counted only for a picture, in at most :data:`MOST_TOKENS` of them.
"""

from __future__ import annotations

import json
import os
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ibnorm_megatron.data.manifest import MANIFEST, Corpus, Manifest, Shard, SplitName
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.data.tokenizer import load_decoder
from ibnorm_megatron.errors import Problem, UserError
from ibnorm_megatron.progress import Progress

from .manifests import CARD

#: Tokens that are counted for a picture.
MOST_TOKENS = 1_000_000_000

#: Characters of a sample that are shown; ids that surely give as many, since a character takes 4 tokens at most, or nearly.
SHOWN, _DECODED = 400, 2000

#: Documents and tokens that are looked at at once; documents below this many tokens are counted by their very length.
_DOCUMENTS, _TOKENS, _EXACT = 1 << 20, 1 << 22, 1 << 18


class Lengths:
    """How long documents are, in tokens: exact, in a few megabytes however many documents there are.

    Documents of a quarter of a million tokens and more are kept one by one: they are few in any corpus that fits on a disk.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_EXACT, dtype=np.int64)
        self._long: list[np.ndarray] = []

    def add(self, lengths: np.ndarray) -> None:
        """Count documents by their lengths, ``[documents]``."""
        for begin in range(0, lengths.size, _DOCUMENTS):
            block = np.maximum(lengths[begin : begin + _DOCUMENTS], 0)
            self._counts += np.bincount(block[block < _EXACT], minlength=_EXACT)
            if (long := block[block >= _EXACT]).size:
                self._long.append(long.astype(np.int64))

    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Every length that occurs, rising, and how many documents have it; both int64."""
        short = np.flatnonzero(self._counts)
        long, counts = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *self._long]), return_counts=True)
        return np.concatenate([short, long]), np.concatenate([self._counts[short], counts])

    def quantile(self, share: float) -> int:
        """The shortest length that at least this share of the documents does not exceed; 0 without documents."""
        lengths, counts = self.histogram()
        if not lengths.size:
            return 0
        below = np.cumsum(counts)
        return int(lengths[min(int(np.searchsorted(below, share * below[-1])), lengths.size - 1)])


@dataclass(frozen=True)
class Sample:
    """A document of a split.

    Attributes:
        corpus: its corpus.
        shard: its shard.
        document: its number in the shard.
        tokens: its length, with the end-of-document token.
        text: how it begins.
        cut: whether it goes on.
    """

    corpus: str
    shard: str
    document: int
    tokens: int
    text: str
    cut: bool


def check_folder(folder: Path) -> None:
    """Refuse what is no prepared folder at all.

    Raises:
        UserError: there is no manifest.
    """
    if not os.path.isfile(folder / MANIFEST):
        why, mend = f"there is no prepared data there (no {MANIFEST})", "give a folder that ibnorm prepare made"
        raise UserError(Problem("the folder", str(folder), why, mend))


def measure(folder: Path, manifest: Manifest, shards: Sequence[Shard]) -> Lengths:
    """How long the documents of some shards are.

    Raises:
        UserError: a shard is damaged.
    """
    lengths = Lengths()
    for shard in shards:
        lengths.add(open_shard(folder, shard, manifest).lengths)
    return lengths


def draw_samples(folder: Path, manifest: Manifest, split: SplitName, samples: int, seed: int) -> list[Sample]:
    """Documents of a split, each as likely as any other; the same ones for the same seed. All of them if there are fewer.

    Raises:
        UserError: the split has no documents, a shard is damaged, or the tokenizer cannot be loaded.
    """
    owners = [(corpus.name, shard) for corpus in manifest.corpora for shard in corpus.splits.get(split, [])]
    ends = list(accumulate(shard.documents for _, shard in owners))
    if not owners:
        has = ", ".join(split for split in ("train", "validation", "test") if manifest.shards(split))  # type: ignore[arg-type]
        raise UserError(Problem("--split", split, "no document is in it", f"choose one of {has}"))
    decode = _decoder(folder, manifest)
    drawing = random.Random(seed)  # noqa: S311 - nothing is secret here
    drawn = []
    for number in drawing.sample(range(ends[-1]), min(samples, ends[-1])):
        which = bisect_right(ends, number)
        corpus, shard = owners[which]
        document = number - (ends[which - 1] if which else 0)
        ids = open_shard(folder, shard, manifest)[document]
        text = decode(ids[: min(_DECODED, ids.size - 1)])
        cut = len(text) > SHOWN or ids.size - 1 > _DECODED
        drawn.append(Sample(corpus, shard.name, document, int(ids.size), text[:SHOWN], cut))
    return drawn


def _decoder(folder: Path, manifest: Manifest) -> Any:
    tokenizer = manifest.tokenizer
    try:
        model = load_decoder(folder, tokenizer)
    except Exception as error:  # both libraries raise bare Exceptions
        why = " ".join(str(error).split()).rstrip(".")[:200]
        mend = "restore the file or prepare the data again into a new folder"
        raise UserError(Problem(str(folder / tokenizer.file), "no tokenizer", why, mend)) from None

    def decode(ids: np.ndarray) -> str:
        if ids.size and (ids.min() < 0 or ids.max() >= tokenizer.vocab_size):
            return "(ids that the tokenizer does not have; run: ibnorm data verify)"
        return model(ids.tolist())

    return decode


def read_card(folder: Path) -> dict[str, Any] | None:
    """The tokenizer's card, or None if there is none that can be read. What is in it may be anything."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) else None


def count_tokens(
    folder: Path, manifest: Manifest, split: SplitName, *, most: int = MOST_TOKENS, visible: bool = False
) -> np.ndarray:
    """How often each token occurs in a split, int64 ``[vocab_size]``.

    Of a split of more than ``most`` tokens so many are counted, in shards that are spread over all of them.

    Raises:
        UserError: a shard is damaged.
    """
    size, width = manifest.tokenizer.vocab_size, np.dtype(manifest.dtype).itemsize
    counts, left = np.zeros(size, dtype=np.int64), min(most, manifest.tokens(split))
    with Progress("counting tokens of", left * width, unit="B", visible=visible) as progress:
        for shard in _spread(manifest.shards(split), most):
            tokens = open_shard(folder, shard, manifest).tokens[:left]
            for begin in range(0, tokens.size, _TOKENS):
                block = tokens[begin : begin + _TOKENS]
                counts += np.bincount(block[(block >= 0) & (block < size)], minlength=size)
                progress.advance(block.size * width)
            left -= tokens.size
            if left <= 0:
                break
    return counts


def _spread(shards: Sequence[Shard], most: int) -> Iterator[Shard]:
    """All shards, or such that lie evenly among them until they hold ``most`` tokens; the first is always one."""
    total = sum(shard.tokens for shard in shards)
    step = max(1.0, total / most)
    position, next_one = 0.0, 0.0
    for shard in shards:
        if position >= next_one:
            yield shard
            next_one += shard.tokens * step
        position += shard.tokens


def dropped_rows(corpus: Corpus) -> Iterator[tuple[str, int, int, str]]:
    """What each rule dropped of a corpus: rule, documents, bytes of text, and the first of its examples in one line."""
    for rule in corpus.dropped:
        example = ""
        if rule.examples:
            first = rule.examples[0]
            example = f"{first.where}: {first.why}: {first.text}" if first.why else f"{first.where}: {first.text}"
        yield rule.rule, rule.documents, rule.text_bytes, example
