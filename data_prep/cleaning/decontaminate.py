"""Dropping documents that hold a piece of an evaluation text: n-grams of words, as in Brown et al. 2020, appendix C.

(arXiv 2005.14165.) Words are as :mod:`data_prep.cleaning.ngrams` says: lower case, runs of letters and digits. So line
ends, case and punctuation hide nothing. A hit of hashes is confirmed by the words themselves, and never mistaken.

In a .txt file every paragraph, up to a blank line, is a text; in a .jsonl file every string of a line is, or of the fields
that the config names, in lists and objects too. No n-gram goes across two texts. A text of fewer words than the n-gram, but
of at least ``shortest``, is searched for as a whole.
"""

from __future__ import annotations

import gzip
import json
import re
import reprlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibnorm_megatron.errors import Problem, UserError

from .config import DecontaminateConfig
from .ngrams import WordHashes, ngram_hashes, words_of

_FIELD = "decontaminate.files"
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class _Index:
    """The n-grams of one length: their hashes, sorted, and at which of all evaluation words each begins."""

    hashes: np.ndarray
    places: np.ndarray
    table: np.ndarray  # whether any hash has these lowest bits: it answers for most n-grams, in one look instead of twenty

    @staticmethod
    def of(hashes: np.ndarray, places: np.ndarray) -> _Index:
        unique, first = np.unique(hashes, return_index=True)
        table = np.zeros(1 << int(16 * len(unique)).bit_length(), dtype=bool)
        table[unique & np.uint64(len(table) - 1)] = True
        return _Index(unique, places[first], table)

    def hits(self, grams: np.ndarray) -> Iterator[tuple[int, int]]:
        """Which of a document's n-grams have a hash of the index, and the place of its n-gram."""
        likely = np.flatnonzero(self.table[grams & np.uint64(len(self.table) - 1)])
        at = np.searchsorted(self.hashes, grams[likely])
        at[at == len(self.hashes)] = 0
        sure = self.hashes[at] == grams[likely]
        yield from zip(likely[sure].tolist(), self.places[at[sure]].tolist(), strict=True)


class Decontaminate:
    """Drops documents that hold an n-gram of an evaluation text.

    Memory: 32 to 48 bytes a different n-gram, 8 bytes a word, and the words.

    Args:
        config: files and lengths, in words.
        base: the folder that relative names of files start from; the working folder if None.

    Raises:
        UserError: a file cannot be read, lacks a field, or holds no text of at least ``shortest`` words.
    """

    def __init__(self, config: DecontaminateConfig, base: Path | None = None) -> None:
        self._config, self._hashes = config, WordHashes()
        words: list[bytes] = []
        texts: list[tuple[int, int]] = []  # begin and end among the words
        self._file_ends = []
        for name in config.files:
            found = len(texts)
            for text in _texts((base or Path()) / Path(name).expanduser(), config.fields):
                these = words_of(text)
                if len(these) >= config.shortest:
                    texts.append((len(words), len(words) + len(these)))
                    words += these
            if len(texts) == found:
                why = f"it holds no text of {config.shortest} words or more"
                raise UserError(Problem(_FIELD, name, why, "lower decontaminate.shortest or leave the file out"))
            self._file_ends.append(len(words))
        self._index = self._indexes(words, texts)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        self._bytes = b" ".join(words)
        self._begins = np.concatenate([[0], np.cumsum(lengths + 1)])  # one byte for the space

    def rules(self) -> list[str]:
        """The names of the rules: one."""
        return ["decontaminate"]

    def __call__(self, text: str) -> tuple[str, str] | None:
        """The rule's name and the evaluation file and words found, or None."""
        words = words_of(text)
        if len(words) < min(self._index):
            return None
        hashes = self._hashes.of(words)
        for length, index in self._index.items():
            for hit, place in index.hits(ngram_hashes(hashes, length)):
                gram = b" ".join(words[hit : hit + length])
                if self._words_at(place, length) == gram:
                    file = self._config.files[int(np.searchsorted(self._file_ends, place, side="right"))]
                    return "decontaminate", f'{length} words of {file}: "{gram.decode("utf-8")}"'
        return None

    def _words_at(self, place: int, length: int) -> bytes:
        return self._bytes[self._begins[place] : self._begins[place + length] - 1]

    def _indexes(self, words: list[bytes], texts: list[tuple[int, int]]) -> dict[int, _Index]:
        """An index for the n-grams and one for each length of shorter texts, the longest first."""
        places: dict[int, list[np.ndarray]] = {}
        for begin, end in texts:
            length = min(end - begin, self._config.ngram)
            places.setdefault(length, []).append(np.arange(begin, end - length + 1))
        hashes, indexes = self._hashes.of(words), {}
        for length in sorted(places, reverse=True):
            at = np.concatenate(places[length])
            indexes[length] = _Index.of(ngram_hashes(hashes, length)[at], at)
        return indexes


def _texts(path: Path, fields: list[str] | None) -> Iterator[str]:
    """Every text of an evaluation file."""
    try:
        data = path.read_bytes()
        content = (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(Problem(_FIELD, str(path), "it is not UTF-8", "convert the file or leave it out")) from None
    except (OSError, EOFError, zlib.error) as error:
        why = f"it cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UserError(Problem(_FIELD, str(path), why, "name an existing .txt or .jsonl file, or its .gz")) from None
    content = content.replace("\r\n", "\n")
    if path.name.lower().endswith((".txt", ".txt.gz")):
        yield from _BLANK_LINES.split(content)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield from _strings(_row(line, f"row {number} of {path}", fields))


def _row(line: str, where: str, fields: list[str] | None) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = str(error).replace(": line 1", " at")  # json counts lines within what it was given
        raise UserError(Problem(where, "not JSON", why, "mend or remove the line")) from None
    if fields is None:
        return row
    if not isinstance(row, dict):
        why = "decontaminate.fields names fields, and only an object has them"
        raise UserError(Problem(where, reprlib.repr(row), why, "leave decontaminate.fields out or write objects"))
    for field in fields:
        if field not in row:
            mend = f"name the right one in decontaminate.fields (there are {', '.join(row)})"
            raise UserError(Problem(f"the field {field!r} in {where}", "missing", "decontaminate.fields names it", mend))
    return [row[field] for field in fields]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
