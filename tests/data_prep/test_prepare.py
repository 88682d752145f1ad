"""Preparing data: nothing lost, nothing silently repaired, nothing half there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpora import find_corpora, longest_document, read_documents
from data_prep.prepare import Holdout, Options, prepare
from data_prep.tokenizer import encode
from ibnorm_megatron.data.manifest import read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.data.tokenizer import load_tokenizer, token_bytes
from ibnorm_megatron.errors import UserError

from ..conftest import VOCABULARY
from ..distributed import ROOT, environment


def test_every_document_comes_back_byte_for_byte(prepared: Path, text_sources: list[str]) -> None:
    manifest, tokenizer = read_manifest(prepared), load_tokenizer(prepared)
    corpora, holdout = find_corpora(text_sources), Holdout(0.1)
    documents = (text for corpus in corpora for text in read_documents(corpus, "text", longest_document(corpora)))
    originals = sorted(holdout.watch(documents))
    decoded, split_matches = [], True
    for split, (shard,) in manifest.splits.items():
        dataset = open_shard(prepared, shard, manifest)
        for i in range(len(dataset)):
            ids = dataset[i].tolist()
            assert ids[-1] == manifest.tokenizer.end_of_document
            assert manifest.tokenizer.end_of_document not in ids[:-1]
            decoded.append(tokenizer.decode(ids[:-1]))
            split_matches &= holdout.split_of(decoded[-1].encode()) == split
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


def test_only_the_content_makes_the_hash(tmp_path: Path, text_sources: list[str]) -> None:
    moved = shutil.copytree(text_sources[0], tmp_path / "moved", ignore=shutil.ignore_patterns("__pycache__"))
    here = prepare(Options((text_sources[0],), tmp_path / "a", 400))
    there = prepare(Options((str(moved),), tmp_path / "b", 400))
    assert here.sources != there.sources
    assert here.content_hash() == there.content_hash()
    (moved / "more.py").write_text("one = 1\n")
    assert here.content_hash() != prepare(Options((str(moved),), tmp_path / "c", 400)).content_hash()


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


def test_the_trainer_hears_every_document(tmp_path: Path) -> None:
    """It samples few lines, but which documents are held out depends on all of them."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"document {i} " * 20}) + "\n" for i in range(500)))
    options = Options((str(tmp_path / "a.jsonl"),), tmp_path / "a", 300, validation_fraction=1e-9)
    few = prepare(replace(options, out=tmp_path / "b", sentences=101))
    assert prepare(options).splits["validation"][0].text_bytes == few.splits["validation"][0].text_bytes
    assert few.splits["validation"][0].documents == 1


@given(texts=st.lists(st.text(max_size=5), min_size=2, max_size=30, unique=True), fraction=st.floats(1e-9, 1 - 1e-9))
def test_no_split_is_left_empty(texts: list[str], fraction: float) -> None:
    holdout = Holdout(fraction)
    assert list(holdout.watch(iter(texts))) == texts
    assert {holdout.split_of(text.encode()) for text in texts} == {"train", "validation"}


def test_a_hash_holds_out_the_fraction() -> None:
    texts, holdout = [str(i) for i in range(20_000)], Holdout(0.05)
    list(holdout.watch(iter(texts)))
    held_out = {text for text in texts if holdout.split_of(text.encode()) == "validation"}
    assert len(held_out) == pytest.approx(1_000, rel=0.1)
    fewer = Holdout(0.05)
    list(fewer.watch(iter(texts[:1_000])))
    assert {text for text in texts[:1_000] if fewer.split_of(text.encode()) == "validation"} == held_out & set(texts[:1_000])


@pytest.mark.parametrize("size", [60_000, 1_000_000])
@pytest.mark.parametrize("blank_lines", [True, False])
def test_a_single_book_can_be_trained_on(tmp_path: Path, text_sources: list[str], size: int, blank_lines: bool) -> None:
    files = [file for source in text_sources for file in sorted(Path(source).rglob("*.py"))]
    book = b"".join(file.read_bytes() for file in files)[:size].replace(b"\n", b"\r\n")
    book = book if blank_lines else re.sub(rb"(\r\n)+", b"\r\n", book)
    (tmp_path / "book.txt").write_bytes(book)
    manifest = prepare(Options((str(tmp_path / "book.txt"),), tmp_path / "out", 1024))
    assert sum(shard.text_bytes for (shard,) in manifest.splits.values()) == len(book)
    assert 1_000 <= manifest.splits["validation"][0].text_bytes <= 0.2 * len(book)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.txt", b"fine\n\xff\xfe", "^byte 5 of .*bad.txt is 0xff: it is not UTF-8"),
        ("line.txt", b"one line of text " * 5000, "^all that the sources hold is .* a single one: .*give more rows"),
        ("same.jsonl", b'{"text": "same"}\n' * 9, "^all that the sources hold is the same document again and again"),
        ("void.jsonl", b'{"text": ""}\n' * 9, "^all that the sources hold is without any text"),
        ("fake.parquet", b"x" * 99, "fake.parquet is not readable"),
    ],
)
def test_bad_sources_are_named_and_leave_nothing(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says):
        prepare(Options((str(tmp_path / name),), tmp_path / "new" / "out", 400))
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_options_are_refused(tmp_path: Path, text_sources: list[str]) -> None:
    source, out = tuple(text_sources[:1]), tmp_path / "out"
    for options, says in [
        (Options(source, out, 100), "--vocab-size is 100"),
        (Options(source, out, 900_000), "--vocab-size is 900000: .* value <= "),
        (Options(source, out, 2**31 - 1, "unigram"), "--vocab-size is 2147483647"),
        (Options(source, out, 10**12), "--vocab-size is 1000000000000"),
        (Options(source, out, 400, validation_fraction=1.0), "--validation-fraction is 1.0"),
        (Options(source, tmp_path, 400), "it exists and is never overwritten"),
        (Options((*source, *source), out, 400), "given twice"),
        (Options((str(tmp_path / "nowhere"),), out, 400), "neither python-stdlib nor"),
    ]:
        with pytest.raises(UserError, match=says):
            prepare(options)
        assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, text_sources: list[str]) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for out, says in [
        ("file", "it exists"),
        ("file/x", r"it cannot be written \(Not a directory\)"),
        ("file/x/y", r"it cannot be written \(Not a directory\)"),
        ("link", "it exists"),
        ("link/x", r"it cannot be written \(No such file or directory\)"),
        ("new/" + "x" * 300, r"it cannot be written \(File name too long\)"),
    ]:
        with pytest.raises(UserError, match=rf"^--out is .*/{out}: {says}"):
            prepare(Options(tuple(text_sources[:1]), tmp_path / out, 400))
        assert sorted(tmp_path.rglob("*")) == before


def test_folders_above_and_the_home_directory(tmp_path: Path, text_sources: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = prepare(Options(tuple(text_sources[:1]), Path("~/new/folder/out"), 400))
    assert read_manifest(tmp_path / "new" / "folder" / "out") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_signal_leaves_nothing(tmp_path: Path) -> None:
    running = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        folder.mkdir()
        arguments = ["ibnorm", "prepare", "python-stdlib", "--out", str(folder / "out"), "--vocab-size", "2048"]
        running[number] = subprocess.Popen(arguments, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for number, process in running.items():
        folder, deadline = tmp_path / number.name, time.monotonic() + 120
        while not any(folder.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [path.name for path in folder.iterdir()] == [f".out.tmp-{process.pid}"]
        process.send_signal(number)
    for number, process in running.items():
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "Traceback" not in errors
        assert list((tmp_path / number.name).iterdir()) == []
