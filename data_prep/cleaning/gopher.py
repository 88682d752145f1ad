"""The quality and repetition rules of Gopher's corpus (Rae et al. 2021, arXiv 2112.11446, appendix A1.1 and table A1).

The paper leaves open how things are counted. Here, without a tokenizer or a model:

- A word is what stands between white space. Its length and the n-grams take it as it is, punctuation included.
- Lines end at a newline, paragraphs at blank lines; both count without the white space around them, blank ones not at all.
- A bullet is one of ``• ‣ ◦ ▪ ● - * –``; an ellipsis is ``...`` or ``…``.
- A stop word counts in any case, next to punctuation too.
- A duplicate is every occurrence after the first. Fractions of lines are of their characters, fractions of n-grams of the
  characters of all words, white space in neither.
- Characters that lie in several repeated n-grams count once. An n-gram that occurs once is no repetition, and of equally
  frequent ones the longest counts.

N-grams are compared by 64-bit hashes: two different ones are taken for the same in about one of 10^13 documents of
a thousand words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from .config import GopherConfig
from .ngrams import WordHashes, extend

_BULLETS = tuple("•‣◦▪●-*–")
_ELLIPSES = ("...", "…")
_LETTER = re.compile(r"[^\W\d_]")
_BLANK_LINES = re.compile(r"\n\s*\n")


class Gopher:
    """The rules that a config leaves on, in the order in which they are tried: cheap ones first.

    The rule ``gopher.NAME`` has the thresholds ``min_NAME`` and ``max_NAME`` of :class:`GopherConfig`.
    """

    def __init__(self, config: GopherConfig) -> None:
        self._hashes = WordHashes()
        stop_words = _StopWords(config.stop_words, config.min_stop_words or 0)
        self._rules: list[_Rule] = []
        stop_rule: _Measured = ("stop_words", "number of different stop words", stop_words)
        for name, label, measure in [*_QUALITY, stop_rule, *_REPETITION]:
            low, high = getattr(config, f"min_{name}", None), getattr(config, f"max_{name}", None)
            if low is not None or high is not None:
                self._rules.append(_Rule(f"gopher.{name}", label, measure, low, high))

    def rules(self) -> list[str]:
        """The names of the rules, in order."""
        return [rule.name for rule in self._rules]

    def __call__(self, text: str) -> tuple[str, str] | None:
        """The name of the first rule that drops the text and why, or None."""
        document = _Document(text, self._hashes)
        for rule in self._rules:
            value = rule.measure(document)
            if rule.low is not None and value < rule.low:
                return rule.name, f"{rule.label} {_shown(value, rule.low)} is below {rule.low}"
            if rule.high is not None and value > rule.high:
                return rule.name, f"{rule.label} {_shown(value, rule.high)} is above {rule.high}"
        return None


@dataclass(frozen=True)
class _Rule:
    name: str
    label: str
    measure: Callable[[_Document], float]
    low: float | None
    high: float | None


class _StopWords:
    """Counts different stop words, up to as many as are wanted: most documents have them in their first lines."""

    def __init__(self, words: list[str], wanted: int) -> None:
        self._any, self._wanted = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE), wanted

    def __call__(self, document: _Document) -> int:
        found: set[str] = set()
        for match in self._any.finditer(document.text):
            found.add(match.group().lower())
            if len(found) >= self._wanted:
                break
        return len(found)


class _Document:
    """A text and what several rules need of it, computed when the first of them asks."""

    def __init__(self, text: str, hashes: WordHashes) -> None:
        self.text = text
        self._hashes = hashes

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def characters(self) -> int:
        return sum(map(len, self.words))

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [paragraph for paragraph in map(str.strip, _BLANK_LINES.split(self.text)) if paragraph]

    @cached_property
    def grams(self) -> _RepeatedGrams:
        return _RepeatedGrams(self._hashes.of(self.words), np.fromiter(map(len, self.words), np.int64, len(self.words)))


class _RepeatedGrams:
    """The n-grams that occur more than once, for n = 2, 3, ... in turn.

    Words that begin a repeated n-gram begin a repeated (n-1)-gram too. So each step looks at what the last one left, which
    in most documents is next to nothing after the first.
    """

    def __init__(self, words: np.ndarray, lengths: np.ndarray) -> None:
        self._words = words
        self._ends = np.concatenate([[0], np.cumsum(lengths)])
        self._n, self._starts, self._grams = 1, np.arange(len(words)), words
        self._first = self._starts[:0]  # of each n-gram: its place in _starts, which is sorted by n-gram, then by place

    def _reach(self, n: int) -> None:
        assert n >= self._n, "rules ask in rising order"
        while self._n < n:
            self._n += 1
            if not len(self._starts):
                continue
            fits = self._starts <= len(self._words) - self._n
            starts = self._starts[fits]
            grams = extend(self._grams[fits], self._words[starts + self._n - 1])
            order = np.argsort(grams)
            grams, starts = grams[order], starts[order]
            same = np.zeros(len(grams) + 1, dtype=bool)
            same[1:-1] = grams[1:] == grams[:-1]
            repeated = same[1:] | same[:-1]
            grams, starts = grams[repeated], starts[repeated]
            # Starts of equal n-grams in order: the first of them is the first in the text.
            order = np.lexsort((starts, grams))
            self._starts, self._grams = starts[order], grams[order]
            new = np.ones(len(order), dtype=bool)
            new[1:] = self._grams[1:] != self._grams[:-1]
            self._first = np.flatnonzero(new)

    def top(self, n: int) -> float:
        self._reach(n)
        if not len(self._first):
            return 0.0
        counts = np.diff(np.append(self._first, len(self._starts)))
        begins = self._starts[self._first]
        lengths = self._ends[begins + n] - self._ends[begins]
        best = np.lexsort((lengths, counts))[-1]
        return self._covered(self._starts[self._first[best] : self._first[best] + counts[best]], n)

    def repeated(self, n: int) -> float:
        self._reach(n)
        return self._covered(np.delete(self._starts, self._first), n) if len(self._first) else 0.0

    def _covered(self, starts: np.ndarray, n: int) -> float:
        """The share of all characters that lie in the n-grams from these starts on, each counted once."""
        starts = np.sort(starts)
        ends = starts + n
        # The next n-gram may begin before this one ends.
        ends[:-1] = np.minimum(ends[:-1], starts[1:])
        return float((self._ends[ends] - self._ends[starts]).sum() / self._ends[-1])


def _mean_word_length(document: _Document) -> float:
    return document.characters / max(1, len(document.words))


def _words_with_letter(document: _Document) -> float:
    return _share([word[0].isalpha() or _LETTER.search(word) is not None for word in document.words])


def _a_word(document: _Document, symbols: tuple[str, ...]) -> float:
    return sum(map(document.text.count, symbols)) / max(1, len(document.words))


def _share(flags: list[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def _repeats(parts: list[str]) -> float:
    return (len(parts) - len(set(parts))) / max(1, len(parts))


def _repeated_characters(parts: list[str]) -> float:
    total = sum(map(len, parts))
    return (total - sum(map(len, set(parts)))) / max(1, total)


def _top(document: _Document, n: int) -> float:
    return document.grams.top(n)


def _repeated(document: _Document, n: int) -> float:
    return document.grams.repeated(n)


def _shown(value: float, limit: float) -> str:
    """The value in as few digits, from 3 on, as tell it from the limit."""
    if isinstance(value, int):
        return str(value)
    digits = next(digits for digits in (3, 6, 9, 17) if digits == 17 or float(f"{value:.{digits}g}") != limit)
    return f"{value:.{digits}g}"


#: A rule's name, what its value is called, and how it is measured.
_Measured = tuple[str, str, Callable[[_Document], float]]

_QUALITY: list[_Measured] = [
    ("words", "word count", lambda document: len(document.words)),
    ("mean_word_length", "mean word length", _mean_word_length),
    ("hash_ratio", "number of # a word", partial(_a_word, symbols=("#",))),
    ("ellipsis_ratio", "number of ellipses a word", partial(_a_word, symbols=_ELLIPSES)),
    (
        "bullet_lines",
        "share of lines with a bullet",
        lambda document: _share([line.startswith(_BULLETS) for line in document.lines]),
    ),
    (
        "ellipsis_lines",
        "share of lines ending in an ellipsis",
        lambda document: _share([line.endswith(_ELLIPSES) for line in document.lines]),
    ),
    ("words_with_letter", "share of words with a letter", _words_with_letter),
]

_REPETITION: list[_Measured] = [
    ("duplicate_lines", "share of repeated lines", lambda document: _repeats(document.lines)),
    (
        "duplicate_line_characters",
        "share of characters in repeated lines",
        lambda document: _repeated_characters(document.lines),
    ),
    ("duplicate_paragraphs", "share of repeated paragraphs", lambda document: _repeats(document.paragraphs)),
    (
        "duplicate_paragraph_characters",
        "share of characters in repeated paragraphs",
        lambda document: _repeated_characters(document.paragraphs),
    ),
    *((f"top_{n}_gram", f"share of characters in the most frequent {n}-gram", partial(_top, n=n)) for n in range(2, 5)),
    *((f"duplicate_{n}_grams", f"share of characters in repeated {n}-grams", partial(_repeated, n=n)) for n in range(5, 11)),
]
