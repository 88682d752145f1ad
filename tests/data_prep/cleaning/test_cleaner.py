"""Normalization, C4's rules, languages, and how the cleaner puts the parts together."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_prep.cleaning.cleaner import Cleaned, Cleaner
from data_prep.cleaning.config import LANGUAGES, C4Config, CleaningConfig, LanguageConfig
from data_prep.cleaning.language import Language
from data_prep.cleaning.ngrams import WordHashes, ngram_hashes, words_of

from ...distributed import ROOT

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))

_PAGE = "We went to the sea. It was cold!\nNobody swam, did they? “We did not.”\nThen it rained a lot."

#: The first article of the Universal Declaration of Human Rights.
_ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and "
    "should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
    "sollen einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
    "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
}


@settings(deadline=None)
@given(_TEXT)
def test_nothing_changes_when_everything_is_off(text: str) -> None:
    cleaner = Cleaner(CleaningConfig(gopher=False, c4=False))
    assert cleaner(text) == Cleaned(text, None, "", 0)
    assert cleaner(text).text is text
    assert cleaner.rules() == []


@settings(deadline=None)
@given(_TEXT, st.sampled_from(["none", "nfc", "nfkc"]), st.sampled_from(["keep", "lf"]))
def test_normalizing_again_changes_nothing(text: str, unicode: str, line_ends: str) -> None:
    cleaner = Cleaner(CleaningConfig(unicode=unicode, line_ends=line_ends))
    once = cleaner(text).text
    assert cleaner(once) == Cleaned(once)


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"line_ends": "lf"}, "a\r\nb\rc\n\r\nd\r\r\n", "a\nb\nc\n\nd\n\n"),
        ({"unicode": "nfc"}, "e\u0301 ﬁ", "é ﬁ"),
        ({"unicode": "nfkc"}, "e\u0301 ﬁ ①", "é fi 1"),
        ({}, "e\u0301\r\n", "e\u0301\r\n"),
    ],
)
def test_normalization(settings: dict[str, str], text: str, expected: str) -> None:
    assert Cleaner(CleaningConfig(**settings))(text) == Cleaned(expected)


def _c4(text: str, **changed: object) -> Cleaned:
    return Cleaner(CleaningConfig(c4=C4Config(**changed)))(text)


@pytest.mark.parametrize(
    ("rule", "off", "dropped", "passing", "detail"),
    [
        ("lorem_ipsum", False, f"{_PAGE}\nLorem Ipsum it said.", f"{_PAGE}\nLorem, ipsum it said.", "lorem ipsum occurs"),
        ("curly_bracket", False, f"{_PAGE}\nA set {{1}} of one.", f"{_PAGE}\nA set (1) of one.", "{ occurs"),
        ("sentences", 0, _PAGE.replace("sea. It", "sea; it"), _PAGE, "number of sentences 4 is below 5"),
    ],
)
def test_each_c4_rule_on_documents(rule: str, off: object, dropped: str, passing: str, detail: str) -> None:
    cleaned = _c4(dropped)
    assert (cleaned.dropped_by, cleaned.detail) == (f"c4.{rule}", detail)
    name = "min_sentences" if rule == "sentences" else rule
    assert _c4(dropped, **{name: off}).dropped_by is None, "no other rule drops it"
    assert _c4(passing).dropped_by is None


@pytest.mark.parametrize(
    ("switch", "off", "removed", "kept"),
    [
        ("terminal_punctuation", False, "Home and away", "Home and away?"),
        ("terminal_punctuation", False, "Home and away...", 'Home and away"'),
        ("terminal_punctuation", False, "Home and away:", "Home and away.” \r"),
        ("min_words_per_line", 0, "Read more.", "Read some more."),
        ("javascript_lines", False, "Please turn JavaScript on.", "Please turn Java on."),
    ],
)
def test_each_c4_rule_on_lines(switch: str, off: object, removed: str, kept: str) -> None:
    first, rest = _PAGE.split("\n", 1)
    assert _c4(f"{first}\n{removed}\n{rest}\n{removed}") == Cleaned(_PAGE, removed_lines=2)
    assert f"\n{removed}\n" in _c4(f"{first}\n{removed}\n{rest}", **{switch: off}).text
    assert f"\n{kept}\n" in _c4(f"{first}\n{kept}\n{rest}").text


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("“One.” (Two!) ['Three?!']", 3),
        ("One... 3.14 is no end, e.g. this", 2),
        ("." * 1_000_000 + "x", 0),  # in less than hours
        (".)" * 10, 1),
        ("", 0),
    ],
)
def test_what_a_sentence_is(text: str, sentences: int) -> None:
    off = {"terminal_punctuation": False, "min_words_per_line": 0, "javascript_lines": False}
    assert _c4(text, **off, min_sentences=sentences).dropped_by is None
    assert _c4(text, **off, min_sentences=sentences + 1).detail == f"number of sentences {sentences} is below {sentences + 1}"


def test_c4_drops_a_document_without_a_line_and_counts_no_blank_ones() -> None:
    cleaned = _c4("Home\n\nAbout us\n  \n", min_sentences=0)
    assert cleaned == Cleaned("", "c4.lines", "none of 2 lines is kept", 2)
    off = {"terminal_punctuation": False, "min_words_per_line": 0, "javascript_lines": False, "min_sentences": 0}
    assert _c4("Home\n\nAbout us\n  \n", **off) == Cleaned("Home\n\nAbout us\n  \n")
    assert Cleaner(CleaningConfig(c4=C4Config(**off))).rules() == ["c4.lorem_ipsum", "c4.curly_bracket"]


@settings(deadline=None)
@given(_TEXT)
def test_c4_keeps_only_lines_of_the_text(text: str) -> None:
    cleaned = _c4(text, min_sentences=0)
    kept = iter(text.split("\n"))
    assert cleaned.dropped_by or all(any(line == other for other in kept) for line in cleaned.text.split("\n"))


@pytest.fixture(scope="module")
def languages() -> dict[str, Cleaner]:
    return {code: Cleaner(CleaningConfig(language=LanguageConfig(keep=[code]))) for code in ("en", "fr")}


@pytest.mark.parametrize("code", _ARTICLE)
def test_languages_of_real_sentences(languages: dict[str, Cleaner], code: str) -> None:
    for kept, cleaner in languages.items():
        cleaned = cleaner(_ARTICLE[code])
        assert cleaned.dropped_by == (None if kept == code else "language")
        assert kept == code or cleaned.detail.startswith(f"most probably {code} (")
        assert cleaner.rules() == ["language"]


def test_what_is_in_no_language_is_dropped(languages: dict[str, Cleaner]) -> None:
    for text in ("", "12 34 56\n" * 20, "-----"):
        assert languages["en"](text).dropped_by == "language"


def test_language_looks_at_the_beginning_and_asks_for_a_probability() -> None:
    both = _ARTICLE["en"] + _ARTICLE["de"] * 20
    begin = Cleaner(CleaningConfig(language=LanguageConfig(keep=["en"], characters=len(_ARTICLE["en"]))))
    assert begin(both).dropped_by is None
    assert Cleaner(CleaningConfig(language=LanguageConfig(keep=["en"], characters=5000)))(both).dropped_by == "language"
    sure = Cleaner(CleaningConfig(language=LanguageConfig(keep=["en"], min_probability=1.0)))(_ARTICLE["en"][:40])
    assert sure.dropped_by == "language" and sure.detail.endswith("is below 1.0")


def test_the_known_languages_are_those_of_the_model() -> None:
    assert set(Language(LanguageConfig(keep=["en"])).labels()) == set(LANGUAGES)


def test_parts_come_in_order_and_the_first_rule_decides() -> None:
    config = CleaningConfig(line_ends="lf", unicode="nfkc", c4=True, gopher=True, language=LanguageConfig(keep=["de"]))
    cleaner = Cleaner(config)
    rules = cleaner.rules()
    assert [rule.partition(".")[0] for rule in rules] == ["c4"] * 4 + ["gopher"] * 21 + ["language"]
    assert cleaner("Lorem ipsum").dropped_by == "c4.lorem_ipsum"
    # After line ends, normalization and the removal of lines: a full-width stop is one after nfkc.
    cleaned = cleaner(_PAGE.replace("\n", "\r\n").replace("swam,", "swam．") + "\rHome")
    assert cleaned.dropped_by == "gopher.words" and cleaned.removed_lines == 1
    assert cleaned.text == _PAGE.replace("swam,", "swam.")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gopher": {"min_words": 10, "max_words": 5}}, "min_words 10 is above max_words 5, so no document passes: swap them"),
        ({"gopher": {"stop_words": ["the"]}}, "min_stop_words 2 of 1 stop_words never occur: lower it or name more of them"),
        ({"gopher": {"stop_words": ["the", "a|b"]}}, "a stop word is letters in lower case: write the, be, to"),
        ({"language": {"keep": ["eng"]}}, "there is no language 'eng': did you mean 'en'?"),
        ({"near_duplicates": {"bands": 129}}, "129 bands cannot be cut from 128 numbers: set bands to num_perm or less"),
        ({"decontaminate": {"files": ["a.csv"]}}, "a.csv is no file of .txt, .jsonl, .txt.gz, .jsonl.gz: convert it to one"),
        ({"decontaminate": {"files": ["a.txt"], "shortest": 14}}, "shortest 14 is above ngram 13: set it to ngram or less"),
        ({"c4": {"curly": True}}, "Extra inputs are not permitted"),
        ({"gopher": {"max_bullet_lines": 1.5}}, "Input should be less than or equal to 1"),
    ],
)
def test_what_a_config_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CleaningConfig.model_validate(settings)
    (error,) = caught.value.errors()
    assert error["msg"].removeprefix("Value error, ") == message


def test_a_config_reads_its_own_dump() -> None:
    config = CleaningConfig.model_validate({"gopher": True, "c4": {"min_sentences": 3}, "language": {"keep": ["en"]}})
    assert CleaningConfig.model_validate(config.model_dump()) == config
    assert config.gopher is not None and config.gopher.min_words == 50


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words_of("Don't_stop: ÄRGER—im 2. “Büro”\n") == "don t stop ärger im 2 büro".encode().split()


@settings(deadline=None)
@given(
    st.one_of(_TEXT, st.text(st.characters(codec="ascii")), st.text(st.characters(categories=["Po", "Sm", "Lo"]), min_size=80))
)
def test_words_are_the_same_by_either_way(text: str) -> None:
    by_hand = "".join(character if character.isalnum() else " " for character in text.lower())
    assert words_of(text) == [word.encode() for word in by_hand.split(" ") if word]


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20), st.integers(1, 8))
def test_equal_ngrams_have_equal_hashes_and_others_not(values: list[int], n: int) -> None:
    hashes = ngram_hashes(np.array(values * 2, dtype=np.uint64), n).tolist()
    grams = [tuple((values * 2)[i : i + n]) for i in range(2 * len(values) - n + 1)]
    assert len(hashes) == max(0, len(grams))
    assert len(set(hashes)) == len(set(grams))


def test_words_that_are_forgotten_get_the_same_hash_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.cleaning.ngrams._REMEMBERED", 2)
    hashes, words = WordHashes(), [b"a", b"b", b"c", b"a"]
    first = hashes.of(words)
    assert hashes.of([b"d"]).tolist() not in first.tolist() and len(hashes) == 1
    assert hashes.of(words).tolist() == first.tolist() == WordHashes().of(["a", "b", "c", "a"]).tolist()


def test_cleaning_starts_without_torch() -> None:
    code = "import sys, data_prep.cleaning.cleaner, data_prep.cleaning.duplicates; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
