"""Evaluation texts in documents: planted n-grams are found however they are written, shorter ones are not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cleaning import decontaminate
from data_prep.cleaning.cleaner import Cleaner
from data_prep.cleaning.config import CleaningConfig, DecontaminateConfig
from data_prep.cleaning.decontaminate import Decontaminate
from ibnorm_megatron.errors import UserError

_QUESTION = "If a train leaves Ulm at nine and drives eighty miles an hour, when does it come to Köln, 490 miles away?"
_WORDS = _QUESTION.lower().replace(",", "").replace("?", "").split()
_SHORT = "What colour has the sky on a clear day"  # nine words
_OTHER = "Nothing of this is in any evaluation, and it is longer than thirteen words in any case, as one can see."


def _built(folder: Path, content: str | bytes, name: str = "eval.txt", **settings: object) -> Cleaner:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Cleaner(CleaningConfig(decontaminate=DecontaminateConfig(files=[name], **settings)), base=folder)


def test_a_planted_ngram_is_found_across_line_ends_case_and_punctuation(tmp_path: Path) -> None:
    cleaner = _built(tmp_path, f"{_OTHER[:20]}\n\n{_QUESTION}\n\n{_SHORT}\n")
    assert cleaner.rules() == ["decontaminate"]
    for first in range(len(_WORDS) - 12):
        planted = "—\n".join(word.upper() for word in _WORDS[first : first + 13])
        cleaned = cleaner(f"{_OTHER}\n\n* {planted}! {_OTHER}")
        assert cleaned.dropped_by == "decontaminate"
        assert cleaned.detail == f'13 words of eval.txt: "{" ".join(_WORDS[first : first + 13])}"'
    assert cleaner(_QUESTION).dropped_by == "decontaminate"


def test_twelve_words_or_a_changed_one_are_no_hit(tmp_path: Path) -> None:
    cleaner = _built(tmp_path, _QUESTION)
    for first in range(len(_WORDS) - 11):
        assert cleaner(f"{_OTHER} {' '.join(_WORDS[first : first + 12])} {_OTHER}").dropped_by is None
    changed = [*_WORDS[:10], "minutes", *_WORDS[11:]]
    assert cleaner(" ".join(changed)).dropped_by is None
    assert cleaner("").dropped_by is None and cleaner(_OTHER).dropped_by is None


def test_a_shorter_text_counts_as_a_whole_and_a_very_short_one_not(tmp_path: Path) -> None:
    cleaner = _built(tmp_path, f"{_SHORT}\n\nThe sky is blue today, is it?\n\n{_QUESTION}")
    cleaned = cleaner(f"{_OTHER}\n{_SHORT.upper()}?")
    assert cleaned.detail == f'9 words of eval.txt: "{_SHORT.lower()}"'
    assert cleaner(f"{_OTHER} {_SHORT.rpartition(' ')[0]} {_OTHER}").dropped_by is None
    assert cleaner("The sky is blue today, is it?").dropped_by is None
    assert cleaner(_SHORT).dropped_by == "decontaminate"
    assert _built(tmp_path, _SHORT, ngram=5, shortest=5)(_SHORT[:24]).detail == '5 words of eval.txt: "what colour has the sky"'


def test_no_ngram_goes_across_two_texts(tmp_path: Path) -> None:
    half, rest = " ".join(_WORDS[:10]), " ".join(_WORDS[10:])
    assert _built(tmp_path, f"{half}\n \n{rest}")(f"{' '.join(_WORDS[4:20])}").dropped_by is None
    assert _built(tmp_path, f"{half}\r\n{rest}")(f"{' '.join(_WORDS[4:20])}").dropped_by == "decontaminate"


@pytest.mark.parametrize("name", ["eval.jsonl", "eval.JSONL.gz"])
def test_json_lines_by_field_or_all_of_their_strings(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": 1, "question": _QUESTION, "choices": {"text": ["no", _SHORT]}},
        {"question": "", "choices": None, "x": _OTHER},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    content = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
    found = {text for text in (_QUESTION, _SHORT, _OTHER) if _built(tmp_path, content, name)(text).dropped_by}
    assert found == {_QUESTION, _SHORT, _OTHER}
    cleaner = _built(tmp_path, content, name, fields=["choices", "question"])
    assert [cleaner(text).dropped_by for text in (_QUESTION, _SHORT, _OTHER)] == ["decontaminate", "decontaminate", None]


def test_the_file_of_a_hit_is_named(tmp_path: Path) -> None:
    for name, text in (("a.txt", _SHORT), ("b.txt", _QUESTION), ("c.txt", _OTHER)):
        (tmp_path / name).write_text(text)
    files = ["a.txt", str(tmp_path / "b.txt"), "c.txt"]
    check = Decontaminate(DecontaminateConfig(files=files), tmp_path)
    for name, text in zip(files, (_SHORT, _QUESTION, _OTHER), strict=True):
        found = check(text)
        assert found is not None and f" words of {name}: " in found[1]


def test_a_collision_of_hashes_is_no_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decontaminate, "ngram_hashes", lambda words, n: np.zeros(max(0, len(words) - n + 1), np.uint64))
    cleaner = _built(tmp_path, " ".join(_WORDS[:13]))
    assert cleaner(_OTHER).dropped_by is None
    assert cleaner(_QUESTION).dropped_by == "decontaminate"


@settings(max_examples=50, deadline=None)  # it waits for the disk
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1),
    st.lists(st.sampled_from("abc"), max_size=20),
)
def test_hits_agree_with_searching_by_hand(
    tmp_path_factory: pytest.TempPathFactory, evaluation: list[list[str]], words: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("eval")
    if max(map(len, evaluation)) < 4:
        return
    cleaner = _built(folder, "\n\n".join(map(" ".join, evaluation)), ngram=6, shortest=4)
    needles = [text[i : i + 6] for text in evaluation if len(text) >= 4 for i in range(max(1, len(text) - 5))]
    expected = any(words[i : i + len(needle)] == needle for needle in needles for i in range(len(words)))
    assert (cleaner(" ".join(words)).dropped_by is not None) == expected


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.txt", None, None, r"decontaminate.files is \S+a.txt: it cannot be read \(No such file or directory\); name"),
        ("a.txt.gz", b"plain", None, r"it cannot be read \(Not a gzipped file"),
        ("a.txt", b"\xff\xfe", None, "it is not UTF-8; convert"),
        ("a.txt", b"too short", None, "decontaminate.files is a.txt: it holds no text of 8 words or more; lower"),
        ("a.jsonl", b'{"a": "b"}\n{"a', None, r"row 2 of \S+a.jsonl is not JSON: Unterminated string"),
        ("a.jsonl", b'{"a": "b"}', ["q"], r"the field 'q' in row 1 of \S+a.jsonl is missing: .* \(there are a\)\."),
        ("a.jsonl", b'"text"', ["q"], r"row 1 of \S+a.jsonl is 'text': decontaminate.fields names fields"),
    ],
)
def test_an_evaluation_file_that_cannot_be_used(
    tmp_path: Path, name: str, content: bytes | None, fields: list[str] | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        Decontaminate(DecontaminateConfig(files=[name], fields=fields), tmp_path)
