"""Words, their hashes, and the hashes of n-grams of words, fast enough for every document of a corpus.

A word is a run of letters and digits (``str.isalnum``) in lower case; all else, such as punctuation, line ends, ``_`` and
combining marks, stands between words. Scripts without spaces give long words: a clause of Chinese is one.
"""

from __future__ import annotations

import re

import numpy as np
import xxhash

#: Words whose hashes are remembered at most, about 40 MB. Text soon repeats its words.
_REMEMBERED = 1 << 18

#: Different separators beyond ASCII that are replaced one after the other; with more of them a regex is faster.
_FEW = 64

_WORD = re.compile(r"[^\W_]+")

#: Of UTF-8: ASCII letters and digits and every byte of a longer character stay, all else becomes a space.
_SPACES = bytes(byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in range(256))

#: Odd, so that no bit of a word is lost however long the n-gram: 2^64 divided by the golden ratio.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[bytes]:
    """The words of a text, each in lower case as UTF-8."""
    text = text.lower()
    if not text.isascii():
        between = [character for character in set(text) if character > "\x7f" and not character.isalnum()]
        if len(between) > _FEW:
            return [word.encode("utf-8") for word in _WORD.findall(text)]
        for character in between:
            text = text.replace(character, " ")
    return text.encode("utf-8").translate(_SPACES).split()


class WordHashes(dict[bytes | str, int]):
    """XXH3 (64 bit) of words, remembered: the same word gives the same hash in every process, as str or as UTF-8."""

    def __missing__(self, word: bytes | str) -> int:
        value = self[word] = xxhash.xxh3_64_intdigest(word if isinstance(word, bytes) else word.encode("utf-8"))
        return value

    def of(self, words: list[bytes] | list[str]) -> np.ndarray:
        """The words' hashes, uint64."""
        if len(self) > _REMEMBERED:
            self.clear()
        return np.fromiter(map(self.__getitem__, words), dtype=np.uint64, count=len(words))


def extend(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The hashes of n-grams, each made longer by one word: a polynomial in :data:`_FACTOR`, modulo 2^64."""
    return hashes * _FACTOR + words


def ngram_hashes(words: np.ndarray, n: int) -> np.ndarray:
    """The hash of every n words in a row, uint64; none if there are fewer.

    Args:
        words: the words' hashes, from :meth:`WordHashes.of`.
        n: words in an n-gram, at least 1.
    """
    count = len(words) - n + 1
    if count <= 0:
        return words[:0]
    hashes = words[:count]
    for offset in range(1, n):
        hashes = extend(hashes, words[offset : offset + count])
    return hashes
