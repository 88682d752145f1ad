"""Gopher's rules: for each a document that only it drops, and a neighbour just inside its threshold."""

from __future__ import annotations

from collections import Counter
from itertools import islice, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning.cleaner import Cleaned, Cleaner
from data_prep.cleaning.config import CleaningConfig, GopherConfig
from data_prep.cleaning.gopher import Gopher, _Document
from data_prep.cleaning.ngrams import WordHashes


def _new_words(count: int, length: int = 5) -> list[str]:
    """Different words of one length; ``x`` in front keeps them from being stop words."""
    return ["x" + "".join(letters) for letters in islice(product("bcdfgklmnprst", repeat=length - 1), count)]


def _filler(count: int) -> list[str]:
    """Different words, two stop words among them, of 5 characters on average."""
    return ["have", *_new_words(2, 6), "with", *_new_words(count - 4)]


def _lines(words: list[str], width: int = 10) -> str:
    return "\n".join(" ".join(words[start : start + width]) for start in range(0, len(words), width))


def _marked(count: int, mark: str, of: int = 100) -> str:
    words = _filler(of)
    return _lines([mark.format(word) for word in words[4 : 4 + count]] + words[:4] + words[4 + count :])


def _between(parts: list[str], rest: list[str], joint: str = "\n") -> str:
    """Each part followed by one of the rest, so that no two parts have the same neighbours."""
    mixed = [piece for part, other in zip(parts, rest, strict=False) for piece in (part, other)]
    return joint.join([*mixed, *rest[len(parts) :]])


def _with_short(parts: int, rest: int, joint: str, lines_each: int = 1) -> str:
    """``ok`` many times, among different lines or paragraphs."""
    words = _filler(rest * lines_each * 8)
    width = lines_each * 8
    return _between(["ok"] * parts, [_lines(words[i * width :][:width], 8) for i in range(rest)], joint)


def _long_lines_twice(unique: int) -> str:
    words, fill = _new_words(20, 15), _filler(unique * 10)
    twice = [" ".join(words[i : i + 4]) for i in range(0, 20, 4)] * 2
    return _between(twice, _lines(fill).split("\n"))


def _paragraphs_twice(unique: int) -> str:
    """Paragraphs of four lines of one word: the line ends in them count for paragraphs and not for lines."""
    words = _filler(20 + 2 * unique)
    own, fill = words[-20:], words[:-20]
    twice = ["\n".join(own[i : i + 4]) for i in range(0, 20, 4)] * 2
    return _between(twice, _lines(fill, 2).split("\n"), "\n\n")


def _same_gram(n: int, times: int) -> str:
    """One n-gram many times among 100 words of 5 characters on average."""
    words = _filler(100)
    gram = " ".join(words[50 : 50 + n])
    rest = [word for word in words if word not in gram][: 100 - n * times]
    assert sum(map(len, rest)) + n * times * 5 == 500
    return _between([gram] * times, rest, " ")


def _grams_twice(n: int, grams: int, of: int) -> str:
    """Some n-grams twice among so many words."""
    words = _filler(of)
    own, rest = words[-n * grams :], words[: of - 2 * n * grams]
    blocks = [" ".join(own[i : i + n]) for i in range(0, n * grams, n)]
    return _between(blocks * 2, rest, " ")


_THREES = ["the", "and", *_new_words(98, 3)]
_TENS = ["have", "with", *_new_words(12, 11), *_new_words(86, 10)]

_NUMBERS = [str(10_000 + i) for i in range(21)]

#: Rule, what it drops, and what it lets pass.
CASES = [
    ("words", _lines(_filler(49)), _lines(_filler(50))),
    ("words", _lines(_filler(20_001) + _new_words(80_000, 7)), _lines(_filler(20_000) + _new_words(80_000, 7))),
    ("mean_word_length", _lines([*_THREES[:-1], "xx"]), _lines(_THREES)),
    ("mean_word_length", _lines([*_TENS[:-1], "x" * 11]), _lines([*_TENS[:-1], "x" * 10])),
    ("hash_ratio", _marked(11, "#{}"), _marked(10, "#{}")),
    ("ellipsis_ratio", _marked(11, "{}...x"), _marked(10, "{}…x")),
    ("bullet_lines", "- " + _lines(_filler(100)).replace("\n", "\n• "), _lines(_filler(100)).replace("\n", "\n• ")),
    (
        "ellipsis_lines",
        _lines(_filler(100)).replace("\n", "...\n", 4),
        _lines(_filler(100)).replace("\n", "…\n", 3),
    ),
    ("words_with_letter", _lines(_NUMBERS + _filler(79)), _lines(_NUMBERS[1:] + _filler(80))),
    ("stop_words", _lines(["have", *_new_words(99)]), _lines(["have", "(With)", *_new_words(98)])),
    ("duplicate_lines", _with_short(8, 12, "\n"), _with_short(7, 13, "\n")),
    ("duplicate_line_characters", _long_lines_twice(15), _long_lines_twice(17)),
    ("duplicate_paragraphs", _with_short(8, 12, "\n\n", 3), _with_short(7, 13, "\n\n", 3)),
    ("duplicate_paragraph_characters", _paragraphs_twice(30), _paragraphs_twice(33)),
    ("top_2_gram", _same_gram(2, 11), _same_gram(2, 10)),
    ("top_3_gram", _same_gram(3, 7), _same_gram(3, 6)),
    ("top_4_gram", _same_gram(4, 5), _same_gram(4, 4)),
    ("duplicate_5_grams", _grams_twice(5, 4, 100), _grams_twice(5, 3, 100)),
    ("duplicate_6_grams", _grams_twice(6, 2, 84), _grams_twice(6, 2, 86)),
    ("duplicate_7_grams", _grams_twice(7, 2, 104), _grams_twice(7, 2, 108)),
    ("duplicate_8_grams", _grams_twice(8, 2, 128), _grams_twice(8, 2, 134)),
    ("duplicate_9_grams", _grams_twice(9, 2, 156), _grams_twice(9, 2, 164)),
    ("duplicate_10_grams", _grams_twice(10, 2, 190), _grams_twice(10, 2, 200)),
]


def _cleaned(text: str, **changed: float | None) -> Cleaned:
    return Cleaner(CleaningConfig(gopher=GopherConfig(**changed)))(text)


@pytest.mark.parametrize(("rule", "dropped", "passing"), CASES, ids=[case[0] for case in CASES])
def test_each_rule_drops_what_lies_beyond_its_threshold(rule: str, dropped: str, passing: str) -> None:
    cleaned = _cleaned(dropped)
    assert cleaned.dropped_by == f"gopher.{rule}"
    assert " is above " in cleaned.detail or " is below " in cleaned.detail
    without = {name: None for name in GopherConfig.model_fields if name in (f"min_{rule}", f"max_{rule}")}
    assert _cleaned(dropped, **without) == Cleaned(dropped), "no other rule drops it"
    assert _cleaned(passing) == Cleaned(passing)


def test_every_rule_has_a_case_and_is_listed_in_order() -> None:
    rules = Cleaner(CleaningConfig(gopher=True)).rules()
    assert {f"gopher.{case[0]}" for case in CASES} == set(rules) and len(set(rules)) == len(rules) == 21
    assert rules[0] == "gopher.words" and rules[-1] == "gopher.duplicate_10_grams"
    thresholds = [name for name in GopherConfig.model_fields if name != "stop_words"]
    assert Gopher(GopherConfig(**dict.fromkeys(thresholds))).rules() == []


def test_the_reason_tells_the_value_from_the_threshold() -> None:
    text = _lines([*_TENS[:-1], "x" * 11])
    assert _cleaned(text).detail == "mean word length 10.01 is above 10.0"
    text = _lines(_filler(20_001) + _new_words(80_000, 7))
    assert _cleaned(text).detail == "word count 100001 is above 100000"


@pytest.mark.parametrize("text", ["", " \n\t ", "\n\n\n", "x", "…"])
def test_next_to_nothing_is_measured_without_an_error(text: str) -> None:
    nothing = dict.fromkeys(("min_words", "min_mean_word_length", "min_words_with_letter", "min_stop_words"))
    assert _cleaned(text, **nothing, max_ellipsis_lines=None, max_ellipsis_ratio=None).dropped_by is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), max_size=40), st.integers(2, 10))
def test_repetition_agrees_with_counting_by_hand(words: list[str], n: int) -> None:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    total = sum(map(len, words))

    def covered(starts: list[int]) -> float:
        return sum(len(words[i]) for i in {start + k for start in starts for k in range(n)}) / total

    again = [i for i, gram in enumerate(grams) if gram in grams[:i]]
    document = _Document(" ".join(words), WordHashes())
    assert document.grams.repeated(n) == pytest.approx(covered(again) if again else 0)
    count = Counter(grams)
    most = max(((count[gram], len("".join(gram))) for gram in count), default=(0, 0))
    best = [g for g in count if (count[g], len("".join(g))) == most and count[g] > 1]
    values = [covered([i for i, gram in enumerate(grams) if gram == g]) for g in best]
    measured = document.grams.top(n)
    assert any(measured == pytest.approx(value) for value in values or [0.0])
