"""The order of samples is a contract, and a sample is what the raw documents say."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.index import EpochIndex
from ibnorm_megatron.data.manifest import SplitName
from ibnorm_megatron.data.prepared import Prepared
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.errors import UserError

from .making import END, documents, make, read

LENGTH = 64


def _dataset(
    folder: Path, cache: Path, *, split: SplitName = "train", length: int = LENGTH, seed: int = 1, **fields: object
) -> SequenceDataset:
    options = {name: fields.pop(name) for name in ("document_mask", "loss_on_end_of_document") if name in fields}
    return SequenceDataset(read(folder, **fields), split, length, seed, cache, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three corpora of several shards; no id occurs twice but the end of a document."""
    ids = iter(range(1, 40_000, 3000))
    corpora = {
        name: {
            "train": [documents(size, next(ids), longest, seed=size) for size in sizes],
            "validation": [documents(15, next(ids), 60, seed=longest)],
        }
        for name, sizes, longest in (("short", (200, 90), 12), ("long", (40,), 120), ("tiny", (9, 3, 8), 20))
    }
    return make(tmp_path_factory.mktemp("made") / "data", corpora)


def _raw(prepared: Prepared, split: SplitName, corpora: set[str] | None = None) -> list[list[int]]:
    """Every document of a split, in the order of folders, corpora and shards."""
    return [
        shard[i].tolist()
        for folder, manifest, corpus in prepared.corpora
        if corpora is None or corpus.name in corpora
        for record in corpus.splits.get(split, [])
        for shard in [open_shard(folder, record, manifest)]
        for i in range(len(shard))
    ]


def test_an_epoch_of_real_text_holds_every_sequence_once(prepared: Path, tmp_path: Path) -> None:
    dataset = _dataset(prepared, tmp_path, split="validation")
    whole = np.bincount(np.concatenate(_raw(read(prepared), "validation")), minlength=512)
    epochs = [[dataset.sample(e * dataset.per_epoch + i) for i in range(dataset.per_epoch)] for e in range(3)]
    for samples in epochs:
        seen = np.bincount(torch.cat([sample["tokens"] for sample in samples]).numpy(), minlength=512)
        # An epoch is its documents laid end to end in its own order; what does not fill a sequence is left over.
        assert whole.sum() - seen.sum() <= LENGTH
        assert (seen <= whole).all()
        for sample in samples:
            assert torch.equal(sample["tokens"][1:], sample["labels"][:-1])
            assert sample["loss_mask"].sum() == LENGTH
            assert torch.equal(sample["position_ids"], torch.arange(LENGTH))
            assert sample.keys() == {"tokens", "labels", "loss_mask", "position_ids"}
    assert [s["tokens"].tolist() for s in epochs[0]] != [s["tokens"].tolist() for s in epochs[1]]


@pytest.mark.parametrize("length", [1, 7, 64, 300])
def test_every_sequence_is_that_of_a_slow_reference(made: Path, tmp_path: Path, length: int) -> None:
    raw = _raw(read(made), "train")
    lengths = np.array([len(document) for document in raw], dtype=np.int32)
    dataset = _dataset(made, tmp_path, length=length, document_mask=True, loss_on_end_of_document=False)
    plain = _dataset(made, tmp_path, length=length)
    ends_only = _dataset(made, tmp_path, length=length, loss_on_end_of_document=False)
    for epoch in range(2):
        index = EpochIndex.build(lengths, length, 1, epoch)
        line = [(place, token) for place, document in enumerate(index.documents.tolist()) for token in raw[document]]
        starts = {place: at for at, (place, _) in reversed(list(enumerate(line)))}
        for i in range(dataset.per_epoch):
            begin = int(index.sequences[i]) * length
            row = line[begin : begin + length + 1]
            expected: dict[str, list[float]] = {
                "tokens": [token for _, token in row[:-1]],
                "labels": [token for _, token in row[1:]],
            }
            first = row[0][0]
            expected["documents"] = [place - first for place, _ in row[:-1]]
            expected["position_ids"] = [at - max(begin, starts[place]) for at, (place, _) in enumerate(row[:-1], start=begin)]
            expected["loss_mask"] = [float(a[0] == b[0] and b[1] != END) for a, b in itertools.pairwise(row)]
            sample = dataset.sample(epoch * dataset.per_epoch + i)
            assert {name: tensor.tolist() for name, tensor in sample.items()} == expected
            unmasked = plain.sample(epoch * plain.per_epoch + i)
            assert unmasked["tokens"].tolist() == expected["tokens"]
            assert unmasked["loss_mask"].tolist() == [1.0] * length
            without_ends = ends_only.sample(epoch * plain.per_epoch + i)
            assert without_ends["loss_mask"].tolist() == [float(label != END) for label in expected["labels"]]
            assert without_ends["position_ids"].tolist() == list(range(length))


def test_types_are_those_the_model_takes(made: Path, tmp_path: Path) -> None:
    sample = _dataset(made, tmp_path, document_mask=True).sample(0)
    types = {"tokens": torch.int64, "labels": torch.int64, "position_ids": torch.int64, "documents": torch.int32}
    assert {name: tensor.dtype for name, tensor in sample.items()} == {**types, "loss_mask": torch.float32}
    assert all(tensor.shape == (LENGTH,) for tensor in sample.values())


@pytest.mark.parametrize("weights", [{}, {"short": 0.5, "long": 0.3, "tiny": 0.2}])
def test_order_depends_on_seed_and_index_only(made: Path, tmp_path: Path, weights: dict[str, float]) -> None:
    short, long, other = (
        _dataset(made, tmp_path / name, seed=seed, weights=weights) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for i in reversed(range(0, 5 * long.per_epoch, 7)):
        long.sample(i)  # it has been far beyond, and back again
    same = [torch.equal(short.sample(i)["tokens"], long.sample(i)["tokens"]) for i in range(30)]
    assert all(same), "a longer horizon changed the beginning"
    assert not all(torch.equal(short.sample(i)["tokens"], other.sample(i)["tokens"]) for i in range(10))


def test_weights_give_each_corpus_its_share_and_epochs_of_its_own(made: Path, tmp_path: Path) -> None:
    weights = {"short": 0.5, "long": 0.3, "tiny": 0.2}
    prepared = read(made, weights=weights)
    length, horizon = 16, 2000
    dataset = SequenceDataset(prepared, "train", length, 1, tmp_path)
    corpus_of = {
        token: name for name in weights for document in _raw(prepared, "train", {name}) for token in document if token != END
    }
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in weights}
    for i in range(horizon):
        tokens = dataset.sample(i)["tokens"].tolist()
        (name,) = {corpus_of[token] for token in tokens if token != END}  # no sequence mixes corpora
        seen[name].append(tuple(tokens))
        assert all(abs(len(found) - weights[other] * (i + 1)) <= 1 for other, found in seen.items())
    for name, found in seen.items():
        size = sum(map(len, _raw(prepared, "train", {name})))
        per_epoch = (size - 1) // length
        for epoch in range(len(found) // per_epoch):
            own = found[epoch * per_epoch : (epoch + 1) * per_epoch]
            counts = Counter(token for row in own for token in row if token != END)
            assert set(counts.values()) == {1}, "a token came twice within an epoch of its corpus"
            assert size - len(own) * length <= length
        assert len(found) > per_epoch, name


def test_the_weights_of_a_manifest_hold_unless_the_config_has_others(tmp_path: Path) -> None:
    corpora = {
        "a": {"train": [documents(50, 1)], "validation": [documents(9, 3000)]},
        "b": {"train": [documents(50, 6000, seed=3)], "validation": [documents(9, 9000)]},
    }
    folder = make(tmp_path / "data", corpora, {"a": 1.0, "b": 9.0})

    def share(**fields: object) -> float:
        dataset = _dataset(folder, tmp_path / "cache", length=8, **fields)
        return sum(int(dataset.sample(i)["tokens"].max()) < 6000 for i in range(100)) / 100

    assert share() == 0.1
    assert share(weights={"a": 3.0, "b": 1.0}) == 0.75
    # Validation is never weighted: it is the same whatever the weights are.
    rows = [
        [
            _dataset(folder, tmp_path / "cache", length=8, split="validation", **fields).sample(i)["tokens"].tolist()
            for i in range(9)
        ]
        for fields in ({}, {"weights": {"a": 3.0, "b": 1.0}})
    ]
    assert rows[0] == rows[1]


def test_two_folders_are_one_set_of_documents(tmp_path: Path) -> None:
    contents = {
        name: {"train": [documents(30, first)], "validation": [documents(9, 20_000 + first)]}
        for name, first in (("a", 1), ("b", 3000))
    }
    both = make(tmp_path / "both", contents)
    apart = [make(tmp_path / name, {name: contents[name]}) for name in contents]
    together = SequenceDataset(read(*apart), "train", 8, 1, tmp_path / "cache")
    one = SequenceDataset(read(both), "train", 8, 1, tmp_path / "cache")
    assert together.per_epoch == one.per_epoch
    assert all(torch.equal(together.sample(i)["tokens"], one.sample(i)["tokens"]) for i in range(2 * one.per_epoch))
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the same documents in the same order have the same index"


def test_a_moved_folder_finds_its_index_again(made: Path, tmp_path: Path) -> None:
    _dataset(made, tmp_path / "cache").sample(0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    _dataset(shutil.copytree(made, tmp_path / "moved"), tmp_path / "cache").sample(0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == files
    assert len(files) == 3


def test_other_data_lengths_splits_and_seeds_have_indices_of_their_own(made: Path, prepared: Path, tmp_path: Path) -> None:
    for folder, fields in (
        (made, {}),
        (made, {"length": 32}),
        (made, {"split": "validation"}),
        (made, {"seed": 2}),
        (prepared, {}),
    ):
        _dataset(folder, tmp_path, **fields).sample(0)  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*/seed*"))) == 5


def test_a_split_shorter_than_a_sequence_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the validation split of .* tokens: one sequence needs .* 10000001"):
        _dataset(made, tmp_path, split="validation", length=10_000_000)
    with pytest.raises(UserError, match=r"the train split of the corpus 'tiny' is \d+ tokens"):
        _dataset(made, tmp_path, length=500, weights={"short": 1.0, "long": 1.0, "tiny": 1.0})


def test_golden_order(made: Path, tmp_path: Path) -> None:
    """What a run of this seed on this data sees, for ever: another value here is another contract."""
    weighted = {"weights": {"short": 0.5, "long": 0.3, "tiny": 0.2}}
    found = [_dataset(made, tmp_path, length=4, **fields).sample(1000)["tokens"].tolist() for fields in ({}, weighted)]
    assert found == [[910, 911, 912, 913], [0, 3514, 3515, 3516]]
