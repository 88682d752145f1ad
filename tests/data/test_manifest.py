"""A prepared folder that is not as its manifest says is refused, whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from ibnorm_megatron.data.manifest import MANIFEST, SPLITS, read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.errors import UserError

from .making import documents, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two corpora; the first has two shards for training, and the second no validation."""
    parts = [documents(20, seed=seed) for seed in range(4)]
    return make(
        tmp_path / "data",
        {"a": {"train": parts[:2], "validation": [parts[2]], "test": [parts[3][:3]]}, "b": {"train": [parts[3]]}},
    )


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _other_index(folder: Path) -> None:
    shutil.copy(folder / "a-validation-0.idx", folder / "a-train-0.idx")


def _edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _double(manifest: dict) -> None:
    manifest["corpora"][0]["splits"]["train"] *= 2


def _same_shard_twice(manifest: dict) -> None:
    of_first = manifest["corpora"][0]["splits"]
    of_first["validation"] = of_first["train"]


def _splits(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change the splits of the first corpus."""
    return lambda folder: _edit_manifest(folder, lambda m: change(m["corpora"][0]["splits"]))


def _corpora(change: Callable[[list], object]) -> Callable[[Path], None]:
    return lambda folder: _edit_manifest(folder, lambda m: change(m["corpora"]))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "there is no prepared data there"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json in .* is not valid"),
        (
            lambda folder: _edit_manifest(folder, lambda m: m.update(version=1)),
            "the version of manifest.json .* is 1: this program reads version 2",
        ),
        (lambda folder: _edit_manifest(folder, lambda m: m.update(extra=1)), "extra"),
        (_splits(lambda splits: splits["train"][0].update(name="../x")), "name"),
        (_splits(lambda splits: splits.pop("validation")), "the validation split holds no document"),
        (_splits(lambda splits: splits.update(holdout=[])), "is not valid: corpora.0.splits.holdout"),
        (
            lambda folder: _edit_manifest(folder, lambda m: [c["splits"].update(train=[]) for c in m["corpora"]]),
            "the train split",
        ),
        (lambda folder: _edit_manifest(folder, _double), "the same shard is named twice"),
        (lambda folder: _edit_manifest(folder, _same_shard_twice), "the same shard is named twice"),
        (_corpora(lambda corpora: corpora.clear()), "corpora: .* at least 1 item"),
        (_corpora(lambda corpora: corpora[1].update(name="a")), "two corpora have the same name"),
        (_corpora(lambda corpora: corpora[1].update(weight=0.5)), "some corpora have a weight and some have none"),
        (_corpora(lambda corpora: corpora[1].update(weight=0.0)), "weight: .* greater than 0"),
        (
            lambda folder: _edit_manifest(folder, lambda m: m["tokenizer"].update(end_of_document=50_000)),
            "outside its vocabulary",
        ),
        (lambda folder: (folder / "a-train-1.bin").unlink(), "a-train-1.bin is missing"),
        (lambda folder: _truncate(folder / "a-train-0.bin"), r"a-train-0.bin is \d+ bytes"),
        (lambda folder: _truncate(folder / "a-test-0.idx"), r"a-test-0.idx is \d+ bytes"),
        (lambda folder: _flip(folder / "b-train-0.idx"), "b-train-0.idx is changed"),
        (lambda folder: _flip(folder / "b-train-0.bin"), "b-train-0.bin is changed"),
        (_other_index, "a-train-0.idx is"),
        (lambda folder: _flip(folder / "tokenizer.model"), "tokenizer.model is changed"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage: Callable[[Path], None], says: str) -> None:
    read_manifest(folder)
    damage(folder)
    with pytest.raises(UserError, match=says):
        read_manifest(folder)


def test_an_index_that_does_not_describe_its_tokens_is_refused(folder: Path) -> None:
    manifest = read_manifest(folder)
    shard = manifest.shards("train")[0]
    with pytest.raises(UserError, match="the manifest says"):
        open_shard(folder, shard.model_copy(update={"tokens": shard.tokens + 1}), manifest)


def test_megatron_reads_the_same_documents(folder: Path) -> None:
    manifest = read_manifest(folder)
    for shard in (shard for split in SPLITS for shard in manifest.shards(split)):
        ours, theirs = open_shard(folder, shard, manifest), IndexedDataset(str(folder / shard.name))
        assert len(ours) == len(theirs) == len(theirs.document_indices) - 1 == shard.documents
        assert all((ours[i] == theirs[i]).all() and ours[i].size == theirs[i].size for i in range(len(ours)))
