"""Preparing data: nothing lost, nothing silently repaired, nothing half there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpora import PYTHON_STDLIB, find_corpora, read_documents
from data_prep.prepare import Options, prepare, split_of
from data_prep.tokenizer import encode
from ibnorm_megatron.data.manifest import read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.data.tokenizer import load_tokenizer, token_bytes
from ibnorm_megatron.errors import UserError

from ..conftest import VOCABULARY


def _documents(sources: list[str], text_field: str = "text") -> list[str]:
    return [text for corpus in find_corpora(sources) for text in read_documents(corpus, text_field)]


def test_every_document_comes_back_byte_for_byte(prepared: Path, text_sources: list[str]) -> None:
    manifest, tokenizer = read_manifest(prepared), load_tokenizer(prepared)
    originals = sorted(text for text in _documents(text_sources) if text)
    decoded, split_matches = [], True
    for split, (shard,) in manifest.splits.items():
        dataset = open_shard(prepared, shard, manifest)
        for i in range(len(dataset)):
            ids = dataset[i].tolist()
            assert ids[-1] == manifest.tokenizer.end_of_document
            assert manifest.tokenizer.end_of_document not in ids[:-1]
            decoded.append(tokenizer.decode(ids[:-1]))
            split_matches &= split_of(decoded[-1].encode(), 0.1) == split
    assert sorted(decoded) == originals
    assert split_matches


def test_manifest_says_what_the_shards_hold(prepared: Path) -> None:
    manifest, tokenizer = read_manifest(prepared), load_tokenizer(prepared)
    assert manifest.tokenizer.vocab_size == VOCABULARY == tokenizer.vocab_size()
    sizes = token_bytes(tokenizer)
    counts = np.zeros(VOCABULARY)
    for split, (shard,) in manifest.splits.items():
        dataset = open_shard(prepared, shard, manifest)
        tokens = np.concatenate([dataset[i].copy() for i in range(len(dataset))])
        assert (tokens.size, len(dataset)) == (shard.tokens, shard.documents)
        assert int(sizes[tokens].sum()) == shard.text_bytes, "bytes of the tokens are the bytes of the text"
        if split == "train":
            counts += np.bincount(tokens, minlength=VOCABULARY)
    share = counts[counts > 0] / counts.sum()
    assert manifest.unigram_entropy == pytest.approx(float(-(share * np.log(share)).sum()), rel=1e-12)
    assert sum(source.documents for source in manifest.sources) == sum(s.documents for (s,) in manifest.splits.values())


def test_the_same_text_gives_the_same_folder(tmp_path: Path, text_sources: list[str]) -> None:
    first, second = (
        prepare(Options(tuple(text_sources[:1]), tmp_path / name, 400, validation_fraction=0.2)) for name in ("a", "b")
    )
    assert first == second
    assert first.content_hash() == second.content_hash()


@pytest.fixture(scope="module")
def tokenizer(prepared: Path) -> sentencepiece.SentencePieceProcessor:
    return load_tokenizer(prepared)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), min_size=1))
def test_any_text_round_trips(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> None:
    (ids,) = encode(tokenizer, [text], "here")
    assert tokenizer.decode(ids) == text
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "\n\n\t \n",
        "  two  spaces ",
        "</s><s><unk>",
        "<0x0A>",
        "\x00\x01",
        "\r\n",
        "\ufeffbom",
        "👩‍👩‍👧 é e\u0301 ﬁ",
        "x" * 5000,
        "日本語",
    ],
)
def test_hostile_text_round_trips(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> None:
    (ids,) = encode(tokenizer, [text], "here")
    assert tokenizer.decode(ids) == text
    assert not any(tokenizer.is_control(i) for i in ids)


def test_a_character_the_tokenizer_cannot_hold_is_refused(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    with pytest.raises(UserError, match=r"a document of here is .*replace the character"):
        encode(tokenizer, ["bars \u2581\u2582"], "here")


def test_reads_every_kind_of_file(tmp_path: Path) -> None:
    texts = ["first\nline", "zweite Zeile: äöü", "third"]
    (tmp_path / "a.txt").write_text(texts[0])
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts)
    (tmp_path / "b.jsonl").write_text(lines)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.table({"body": texts}), tmp_path / "d.parquet")
    assert _documents([str(tmp_path / "a.txt")]) == texts[:1]
    for name in ("b.jsonl", "c.jsonl.gz", "d.parquet"):
        assert _documents([str(tmp_path / name)], "body") == texts, name
    assert sorted(_documents([str(tmp_path)], "body")) == sorted([texts[0], *texts, *texts, *texts])


def test_the_standard_library_is_a_corpus() -> None:
    (corpus,) = find_corpora([PYTHON_STDLIB])
    assert len(corpus.files) > 400
    assert not any("site-packages" in file.parts or "test" in file.parts for file in corpus.files)
    first = next(iter(read_documents(corpus, "text")))
    assert first == corpus.files[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.txt", b"fine\n\xff\xfe", "bad.txt is byte 5: it is not UTF-8"),
        ("none.jsonl", b'{"text": "a"}\n{"other": 1}\n', "the field 'text' in row 2 of .* is missing"),
        ("number.jsonl", b'{"text": 5}\n', "the field 'text' in row 1 of .* is 5"),
        ("broken.jsonl", b'{"text": "a"\n', "is not readable"),
        ("empty.txt", b"", "neither python-stdlib nor"),
        ("picture.png", b"x", "neither python-stdlib nor"),
    ],
)
def test_bad_sources_are_named_and_leave_nothing(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=says):
        prepare(Options((str(tmp_path / name),), tmp_path / "out", 400))
    assert sorted(tmp_path.iterdir()) == before


def test_bad_options_are_refused(tmp_path: Path, text_sources: list[str]) -> None:
    source, out = tuple(text_sources[:1]), tmp_path / "out"
    for options, says in [
        (Options(source, out, 100), "--vocab-size is 100"),
        (Options(source, out, 10_000_000), "--vocab-size is 10000000"),
        (Options(source, out, 400, validation_fraction=1.0), "--validation-fraction is 1.0"),
        (Options(source, tmp_path, 400), "it exists and is never overwritten"),
        (Options((*source, *source), out, 400), "given twice"),
        (Options((str(tmp_path / "nowhere"),), out, 400), "neither python-stdlib nor"),
        (Options(source, out, 400, validation_fraction=1e-6), "the validation split is empty"),
    ]:
        with pytest.raises(UserError, match=says):
            prepare(options)
        assert list(tmp_path.iterdir()) == []
