"""Preparing data: nothing lost, nothing silently repaired, nothing half there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from data_prep.prepare import Options, prepare
from data_prep.readers import Reader
from data_prep.recipe import SourceConfig, make_recipe, read_recipe
from data_prep.sources import find_sources
from data_prep.splits import Splits, place_of
from ibnorm_megatron.data.manifest import SPLITS, Manifest, read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.data.tokenizer import load_decoder, token_bytes
from ibnorm_megatron.errors import UserError

from ..conftest import VOCABULARY, prepare_folder


def originals(paths: list[str]) -> list[str]:
    """Every document of some paths, as it is read."""
    configs = [SourceConfig(path=path) for path in paths]
    sources = find_sources(configs, [str(i) for i in range(len(configs))])
    return [text for source in sources for part in source.parts for text, _ in Reader(source, "strict").documents(part) if text]


def decoded(folder: Path, manifest: Manifest) -> dict[str, list[str]]:
    """Every document of a prepared folder, by split, in the order of the shards."""
    decode, found = load_decoder(folder, manifest.tokenizer), {}
    for split in SPLITS:
        found[split] = []
        for entry in manifest.shards(split):
            shard = open_shard(folder, entry, manifest)
            assert len(shard) == entry.documents
            for i in range(len(shard)):
                *ids, end = shard[i].tolist()
                assert end == manifest.tokenizer.end_of_document and end not in ids
                found[split].append(decode(ids))
    return found


def test_every_document_comes_back_byte_for_byte(prepared: Path, text_sources: list[str]) -> None:
    manifest, splits = read_manifest(prepared), Splits(0.1, 0.0)
    found = decoded(prepared, manifest)
    assert sorted(found["train"] + found["validation"]) == sorted(originals(text_sources))
    assert all(splits.of(text.encode()) == split for split, texts in found.items() for text in texts)


def test_manifest_says_what_the_shards_hold(prepared: Path, text_sources: list[str]) -> None:
    manifest = read_manifest(prepared)
    assert manifest.tokenizer.vocab_size == VOCABULARY
    sizes, counts = token_bytes(prepared, manifest.tokenizer), np.zeros(VOCABULARY)
    for split in SPLITS:
        for entry in manifest.shards(split):
            tokens = np.array(open_shard(prepared, entry, manifest).tokens)
            assert tokens.size == entry.tokens
            assert int(sizes[tokens].sum()) == entry.text_bytes, "bytes of the tokens are the bytes of the text"
            if split == "train":
                counts += np.bincount(tokens, minlength=VOCABULARY)
    share = counts[counts > 0] / counts.sum()
    assert manifest.unigram_entropy == pytest.approx(float(-(share * np.log(share)).sum()), rel=1e-12)
    assert [corpus.name for corpus in manifest.corpora] == [Path(source).name for source in text_sources]
    for corpus in manifest.corpora:
        empty = sum(rule.documents for rule in corpus.dropped)
        assert corpus.documents_read == corpus.documents + empty and {rule.rule for rule in corpus.dropped} <= {"empty"}


def test_the_card_says_how_the_tokenizer_fits(prepared: Path) -> None:
    card, manifest = json.loads((prepared / "tokenizer_card.json").read_text()), read_manifest(prepared)
    text = sum(shard.text_bytes for split in SPLITS for shard in manifest.shards(split))
    tokens = sum(shard.tokens - shard.documents for split in SPLITS for shard in manifest.shards(split))
    assert card["hash"] == manifest.tokenizer.hash and card["vocab_size"] == VOCABULARY
    assert card["bytes_per_token"] == pytest.approx(text / tokens)
    assert 3 < card["fertility"] < 8
    assert 0 < card["entries_unused_in_training_text"] < 256


def test_stock_megatron_reads_the_shards(prepared: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    manifest = read_manifest(prepared)
    for split in ("train", "validation"):
        for entry in manifest.shards(split):  # type: ignore[arg-type]
            theirs, ours = IndexedDataset(str(prepared / entry.name)), open_shard(prepared, entry, manifest)
            assert len(theirs) == len(ours) and theirs.document_indices.tolist() == list(range(len(ours) + 1))
            assert all(np.array_equal(theirs[i], ours[i]) for i in range(len(ours)))


def test_the_same_text_gives_the_same_folder(tmp_path: Path, text_sources: list[str]) -> None:
    """Also when the trainer samples its lines, and however the work is shared."""
    recipe = {"tokenizer": {"vocab_size": 400, "sentences": 2000}, "piece_bytes": 100_000, "validation_fraction": 0.2}
    manifests = []
    for name, workers in (("a", 1), ("b", 2)):
        made = make_recipe({"sources": [{"path": text_sources[0]}, {"path": text_sources[1]}], **recipe})
        manifests.append(prepare(Options(made, tmp_path / name, workers=workers)))
    assert manifests[0] == manifests[1] and len(manifests[0].shards("train")) > 4  # type: ignore[union-attr]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file."""
    return {file.name: xxhash.xxh3_128_hexdigest(file.read_bytes()) for file in folder.iterdir()}


def test_only_the_content_makes_the_hash(tmp_path: Path, text_sources: list[str]) -> None:
    moved = shutil.copytree(text_sources[0], tmp_path / "asyncio", ignore=shutil.ignore_patterns("__pycache__"))
    here = prepare_folder(text_sources[:1], tmp_path / "a", 400)
    there = prepare_folder([str(moved)], tmp_path / "b", 400)
    assert here.corpora[0].source != there.corpora[0].source
    assert here.content_hash() == there.content_hash()
    (moved / "more.py").write_text("one = 1\n")
    assert here.content_hash() != prepare_folder([str(moved)], tmp_path / "c", 400).content_hash()


@given(text=st.text(), validation=st.floats(0, 0.5), test=st.floats(0, 0.4))
def test_a_share_moves_no_document_between_the_others(text: str, validation: float, test: float) -> None:
    now = Splits(validation, test).of(text.encode())
    assert Splits(validation, test / 2).of(text.encode()) in (now, "train")
    assert Splits(validation / 2, test).of(text.encode()) in (now, "train")
    assert 0 <= place_of(text.encode()) < 1


def test_adding_data_moves_no_document_between_splits(tmp_path: Path, text_sources: list[str]) -> None:
    recipe: dict[str, Any] = {"validation_fraction": 0.2, "test_fraction": 0.1}
    one = decoded(tmp_path / "a", prepare_folder(text_sources[:1], tmp_path / "a", 400, **recipe))
    more = decoded(tmp_path / "b", prepare_folder(text_sources, tmp_path / "b", 600, **recipe))
    for split in SPLITS:
        assert one[split] and set(one[split]) <= set(more[split])


def test_a_hash_holds_out_the_fraction() -> None:
    splits, texts = Splits(0.05, 0.02), [str(i).encode() for i in range(20_000)]
    found = [splits.of(text) for text in texts]
    assert found.count("validation") == pytest.approx(1_000, rel=0.1)
    assert found.count("test") == pytest.approx(400, rel=0.15)


@pytest.mark.parametrize("size", [60_000, 1_000_000])
@pytest.mark.parametrize("blank_lines", [True, False])
def test_a_single_book_can_be_trained_on(tmp_path: Path, text_sources: list[str], size: int, blank_lines: bool) -> None:
    files = [file for source in text_sources for file in sorted(Path(source).rglob("*.py"))]
    book = b"".join(file.read_bytes() for file in files)[:size].replace(b"\n", b"\r\n")
    book = book if blank_lines else re.sub(rb"(\r\n)+", b"\r\n", book)
    (tmp_path / "book.txt").write_bytes(book)
    manifest = prepare_folder([str(tmp_path / "book.txt")], tmp_path / "out", 1024)
    assert sum(shard.text_bytes for split in SPLITS for shard in manifest.shards(split)) == len(book)
    assert 1_000 <= sum(shard.text_bytes for shard in manifest.shards("validation")) <= 0.2 * len(book)


def test_a_recipe_with_everything(tmp_path: Path, text_sources: list[str]) -> None:
    """Weights, names, cleaning, a test split: what is dropped is told, and what is left comes back."""
    page = "The cat sat on the mat and it had to be with the dog. " * 3
    rows = [page + str(i) for i in range(300)] + ["", "short", page + "7", page.replace(" ", "  ") + "\r\n1000"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        f"""
sources:
  - {{path: {text_sources[0]}, name: code, weight: 0.25}}
  - {{path: {tmp_path / "rows.jsonl"}, text_field: body, weight: 0.75}}
tokenizer: {{vocab_size: 500, kind: unigram}}
cleaning:
  line_ends: lf
  exact_duplicates: true
  gopher: {{min_words: 5, max_words: null, max_top_2_gram: null, max_top_3_gram: null, max_top_4_gram: null,
           min_stop_words: null, max_mean_word_length: null, min_mean_word_length: null, min_words_with_letter: null,
           max_hash_ratio: null, max_duplicate_lines: null, max_duplicate_line_characters: null,
           max_duplicate_paragraphs: null, max_duplicate_paragraph_characters: null, max_duplicate_5_grams: null,
           max_duplicate_6_grams: null, max_duplicate_7_grams: null, max_duplicate_8_grams: null,
           max_duplicate_9_grams: null, max_duplicate_10_grams: null}}
validation_fraction: 0.1
test_fraction: 0.1
"""
    )
    manifest = prepare(Options(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out"))
    assert manifest is not None
    code, prose = manifest.corpora
    assert (code.name, code.weight, prose.name, prose.weight) == ("code", 0.25, "rows", 0.75)
    assert {(rule.rule, rule.documents) for rule in prose.dropped} == {("gopher.words", 2), ("exact_duplicates", 1)}
    (duplicate,) = next(rule.examples for rule in prose.dropped if rule.rule == "exact_duplicates")
    assert duplicate.where == f"row 303 of {tmp_path}/rows.jsonl" and duplicate.text.startswith("The cat")
    assert prose.documents_read == 304 and prose.documents == 301
    found = decoded(tmp_path / "out", manifest)
    assert all(found.values())
    assert page.replace(" ", "  ") + "\n1000" in [text for texts in found.values() for text in texts]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.txt", b"fine\n\xff\xfe", "^byte 5 of .*bad.txt is 0xff: it is not UTF-8"),
        (
            "line.txt",
            b"the only line of text " * 5000,
            "^--validation-fraction is 0.05: none of 1 documents .*; give more documents: rows",
        ),
        (
            "same.jsonl",
            b'{"text": "same"}\n' * 9,
            "^--validation-fraction is 0.05: none of 9 documents .*; give more documents",
        ),
        (
            "few.jsonl",
            b'{"text": "one"}\n{"text": "two"}\n',
            r"^--validation-fraction is 0.05: none of 2 .* or use 0.\d{4} or more",
        ),
        (
            "void.jsonl",
            b'{"text": ""}\n' * 9,
            "^all that the sources hold is without any text: there is nothing",
        ),
        ("fake.parquet", b"x" * 99, "fake.parquet is not readable"),
    ],
)
def test_bad_sources_are_named_and_leave_nothing(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=says):
        prepare_folder([str(tmp_path / name)], tmp_path / "new" / "out", 280 if name == "line.txt" else 270)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_no_text_are_refused(tmp_path: Path, text_sources: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a\udcff\nb.txt").write_text("fine")
    before = sorted(tmp_path.rglob("*"))
    for source, out in ((str(tmp_path / "folder"), "out"), (text_sources[0], "out\udcff")):
        with pytest.raises(UserError, match=r"^.*\\udcff.* is not UTF-8; [^\n]*$"):
            prepare_folder([source], tmp_path / out, 400)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_long_file_name_makes_a_short_corpus_name(tmp_path: Path, text_sources: list[str]) -> None:
    path = tmp_path / f"{'x' * 240}.txt"
    path.write_bytes(b"".join(file.read_bytes() for file in sorted(Path(text_sources[0]).glob("*.py"))))
    assert prepare_folder([str(path)], tmp_path / "out", 400).corpora[0].name == "x" * 100


def test_the_share_that_a_refusal_names_works(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": f"{i} words and words " * 9}) + "\n" for i in range(9)))
    with pytest.raises(UserError, match=r"or use 0\.\d+ or more") as refused:
        prepare_folder([str(tmp_path / "few.jsonl")], tmp_path / "out", 290, validation_fraction=0.001)
    share = float(re.search(r"use (0\.\d+) or more", str(refused.value)).group(1))  # type: ignore[union-attr]
    manifest = prepare_folder([str(tmp_path / "few.jsonl")], tmp_path / "out", 290, validation_fraction=share)
    assert sum(shard.documents for shard in manifest.shards("validation")) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer": {"vocab_size": 100}}, "recipe.tokenizer.* vocab_size is 100, and 261 entries are taken"),
        ({"tokenizer": {"vocab_size": 900_000}}, "--vocab-size is 900000: .* value <= "),
        ({"tokenizer": {"vocab_size": 2**31 - 1, "kind": "unigram"}}, "vocab_size is 2147483647, and no text fills"),
        ({"tokenizer": {}}, "neither vocab_size nor file"),
        ({"tokenizer": {"file": "x.model", "vocab_size": 400}}, "has its own vocab_size"),
        ({"tokenizer": {"file": "nowhere.model"}}, r"recipe.tokenizer.file is nowhere.model: it cannot be read \(No such file"),
        ({"tokenizer": {"file": "a.bin"}}, "recipe.tokenizer.file is a.bin: its kind is told by its suffix"),
        ({"validation_fraction": 1.0}, "recipe.validation_fraction is 1.0"),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, "leave nothing to train on; lower one"),
        ({"sources": []}, "recipe.sources is "),
        ({"sources": [{"path": "a"}, {"path": "b", "weight": 1.0}]}, "some sources have a weight and some have none"),
        ({"sources": [{"path": "a", "name": "x"}, {"path": "b", "name": "x"}]}, "two sources are named x"),
        ({"sources": [{"path": "a", "dataset": "b"}]}, "either a path or a dataset"),
        ({"sources": [{"path": "a", "split": "test"}]}, "are those of a dataset"),
        ({"sources": [{"path": "nowhere.txt"}]}, r"nowhere.txt cannot be opened"),
        ({"cleaning": {"language": {"keep": ["xx"]}}}, "there is no language 'xx'"),
        ({"cleaning": {"gophr": True}}, "recipe.cleaning.gophr"),
        ({"sources": [{"path": ""}]}, "recipe.sources.0.path is ''"),
        ({"sources": [{"path": "a\0.txt"}]}, "recipe.sources.0.path is .*: it is not Unicode text"),
        ({"sources": [{"path": "a", "text_field": "\udcff"}]}, "recipe.sources.0.text_field is .*: it is not Unicode text"),
        ({"sources": [{"path": "a", "name": "x" * 201}]}, "the name makes names of files that are too long"),
        ({"typo": 1}, "recipe.typo is 1: there is no such field"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, text_sources: list[str], change: dict[str, Any], says: str) -> None:
    values = {"sources": [{"path": text_sources[0]}], "tokenizer": {"vocab_size": 400}, **change}
    with pytest.raises(UserError, match=says):
        prepare(Options(make_recipe(values), tmp_path / "out", workers=1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path: Path, text_sources: list[str]) -> None:
    for sources, out, says in (
        (text_sources[:1], tmp_path, "it exists and is never overwritten"),
        ([*text_sources, text_sources[0]], tmp_path / "out", "given twice"),
    ):
        with pytest.raises(UserError, match=says):
            prepare_folder(sources, out, 400)
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
        ("link/x", r"it cannot be written \((No such file or directory|File exists)\)"),
        ("new/" + "x" * 300, r"it cannot be written \(File name too long\)"),
    ]:
        with pytest.raises(UserError, match=rf"^--out is .*/{out}: {says}"):
            prepare_folder(text_sources[:1], tmp_path / out, 400)
        assert sorted(tmp_path.rglob("*")) == before


def test_folders_above_and_the_home_directory(tmp_path: Path, text_sources: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = prepare_folder(text_sources[:1], Path("~/new/folder/out"), 400)
    assert read_manifest(tmp_path / "new" / "folder" / "out") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
