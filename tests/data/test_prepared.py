"""Several folders as one: what does not fit together is refused, a sentence each, all at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.config import DataConfig
from ibnorm_megatron.data.manifest import read_manifest
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.errors import UserError

from ..distributed import ROOT
from .making import documents, make, read

TINY = ROOT / "configs" / "tiny_llama.yaml"


def _contents(first: int) -> dict[str, Any]:
    return {"train": [documents(30, first)], "validation": [documents(9, 20_000 + first)]}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        make(tmp_path / "one", {"web": _contents(1), "books": _contents(2000)}),
        make(tmp_path / "two", {"code": _contents(4000)}),
    ]


def test_one_folder_is_its_manifest(folders: list[Path]) -> None:
    prepared, manifest = read(folders[0]), read_manifest(folders[0])
    assert prepared.content_hash() == manifest.content_hash()
    assert prepared.unigram_entropy() == manifest.unigram_entropy
    assert prepared.tokenizer == manifest.tokenizer
    assert [prepared.tokens(split) for split in ("train", "validation")] == [
        manifest.tokens("train"), manifest.tokens("validation")
    ]  # fmt: skip
    assert prepared.weights == {}


def test_two_folders_add_up(folders: list[Path]) -> None:
    prepared, manifests = read(*folders), [read_manifest(folder) for folder in folders]
    tokens = [manifest.tokens("train") for manifest in manifests]
    assert prepared.tokens("train") == sum(tokens)
    assert [corpus.name for _, _, corpus in prepared.corpora] == ["web", "books", "code"]
    by_tokens = sum(t * m.unigram_entropy for t, m in zip(tokens, manifests, strict=True)) / sum(tokens)
    assert prepared.unigram_entropy() == pytest.approx(by_tokens)
    weighted = read(*folders, weights={"web": 1.0, "books": 2.0, "code": 1.0})
    assert weighted.unigram_entropy() == pytest.approx(0.75 * 3.0 + 0.25 * 1.5)
    hashes = {prepared.content_hash(), read(*reversed(folders)).content_hash(), *(m.content_hash() for m in manifests)}
    assert len(hashes) == 4, "the order of folders is part of the order of samples"
    assert weighted.content_hash() == prepared.content_hash()


def _refused(*folders: Path, **fields: object) -> str:
    with pytest.raises(UserError) as found:
        read(*folders, **fields)
    return str(found.value)


def test_what_does_not_fit_together_is_refused(folders: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folders[0])
    assert f"data.path is {link}: it is the same folder as {folders[0]}" in _refused(folders[0], link)
    assert "it is the same folder as" in _refused(folders[0], folders[0])
    other = make(tmp_path / "other", {"x": _contents(6000)}, tokenizer="another")
    assert f"data.path is {other}: its tokenizer is not that of {folders[0]}" in _refused(*folders, other)
    wide = make(tmp_path / "wide", {"y": _contents(6000)}, vocabulary=70_000)
    assert "its tokens are int32, those of" in _refused(*folders, wide)
    named = make(tmp_path / "named", {"web": _contents(8000)})
    assert f"its corpus 'web' has the name of one in {folders[0]}" in _refused(*folders, named)
    copied = make(tmp_path / "copied", {"news": _contents(2000)})
    assert "its corpus 'news' holds the same documents as 'books'" in _refused(*folders, copied)


def test_everything_is_said_at_once(folders: list[Path], tmp_path: Path) -> None:
    other = make(tmp_path / "other", {"web": _contents(6000)}, tokenizer="another")
    said = _refused(folders[0], other, tmp_path / "nowhere", folders[0])
    assert len(said.splitlines()) == 4
    for text in ("its tokenizer", "has the name of one", "there is no prepared data there", "the same folder"):
        assert text in said


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            {"web": 1.0, "books": 1.0, "cod": 1.0},
            ["data.weights.cod is 1.0: there is no such corpus; did you mean 'code'?", "code has none"],
        ),
        ({"web": 1.0}, ["data.weights is {'web': 1.0}: books, code have none; give every corpus a weight"]),
        ({"wbe": 1.0, "books": 1.0}, ["data.weights.wbe", "web, code have none"]),
    ],
)
def test_weights_name_the_corpora(folders: list[Path], weights: dict[str, float], says: list[str]) -> None:
    said = _refused(*folders, weights=weights)
    assert all(text in said for text in says), said
    assert len(said.splitlines()) == len(says)


def test_a_weight_needs_documents_to_train_on(folders: list[Path], tmp_path: Path) -> None:
    # Without weights a corpus may be there for validation only, if another one has text to train on.
    held_out = make(tmp_path / "held", {"a": _contents(7000), "b": {"validation": [documents(9, 9000)]}})
    assert read(held_out).tokens("train") > 0
    said = _refused(held_out, weights={"a": 1.0, "b": 0.5})
    assert said == (
        "data.weights.b is 0.5: the corpus has no documents for training; prepare it with more text, or leave its folder out."
    )


def test_folders_with_and_without_weights_need_those_of_the_config(folders: list[Path], tmp_path: Path) -> None:
    weighted = make(tmp_path / "weighted", {"news": _contents(7000)}, {"news": 2.0})
    said = _refused(*folders, weighted)
    assert said == (
        "data.weights is empty: the manifests give weights to news, and web, books, code have none; give every corpus a weight."
    )
    assert read(weighted).weights == {"news": 2.0}
    mine = {"web": 1.0, "books": 1.0, "code": 1.0, "news": 1.0}
    assert read(*folders, weighted, weights=mine).weights == mine


def test_too_little_data_for_a_sequence_is_a_problem_for_each_split_and_corpus(folders: list[Path]) -> None:
    prepared = read(*folders, weights={"web": 1.0, "books": 1.0, "code": 1.0})
    assert not list(prepared.problems(64))
    most = max(sum(s.tokens for s in corpus.splits["train"]) for _, _, corpus in prepared.corpora)
    assert [str(problem) for problem in prepared.problems(most) if "the train split of the corpus 'code'" in str(problem)]
    assert len(list(prepared.problems(10**6))) == 5


PATHS = {
    "data.path=[a, 007]": ["a", "007"],
    "data.path=007": "007",
    "data.path=[1e3]": ["1e3"],
    "data.path=~/x": "~/x",
}


@pytest.mark.parametrize("given", PATHS)
def test_paths_are_kept_as_they_were_typed(given: str, tmp_path: Path) -> None:
    config = load_config(TINY, [given])
    assert config.data.path == PATHS[given]
    assert all(isinstance(path, Path) and "~" not in str(path) for path in config.data.paths())
    written = tmp_path / "config.yaml"
    written.write_text(config.to_yaml())
    assert load_config(written) == config


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.path=[]"], ["data.path is []: it is no folder's path and no list of them; write path: data/mine"]),
        (["data.path={a: b}"], ["data.path is set so: it is no folder's path"]),
        (["data.path=[[a]]"], ["data.path is [['a']]"]),
        (["data.path=true"], ["data.path is True"]),
        (["data.weights.web=-1"], ["data.weights.web is -1: input should be greater than 0"]),
        (["data.weights.web=0"], ["data.weights.web is 0"]),
        (["data.weights.web=.inf"], ["data.weights.web is inf"]),
        (["data.weights.web=much", "data.weights.b=.nan"], ["data.weights.web is 'much'", "data.weights.b is nan"]),
        (["data.document_mask=1", "data.index_cache=[x]"], ["data.document_mask is 1", "data.index_cache is ['x']"]),
    ],
)
def test_what_is_no_data_config_is_refused(overrides: list[str], says: list[str]) -> None:
    with pytest.raises(UserError) as found:
        load_config(TINY, overrides)
    assert all(text in str(found.value) for text in says), found.value
    assert len(str(found.value).splitlines()) == len(says), found.value


def test_weights_are_read_from_the_command_line(folders: list[Path]) -> None:
    given = [f"data.path=[{folders[0]}, {folders[1]}]", "data.weights={web: 0.7, books: 1, code: 2e-1}"]
    data = load_config(TINY, given).data
    assert data.weights == {"web": 0.7, "books": 1.0, "code": 0.2}
    assert math.isclose(sum(read_prepared(data).weights.values()), 1.9)
    assert read_prepared(DataConfig(path=str(folders[0]))).weights == {}
