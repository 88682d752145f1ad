"""The order of samples is a contract, and a damaged folder is refused."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibnorm_megatron import data
from ibnorm_megatron.data.batch import Batch
from ibnorm_megatron.data.dataset import Loader, SequenceDataset
from ibnorm_megatron.data.manifest import MANIFEST, read_manifest
from ibnorm_megatron.data.shards import open_shard
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.parallel.groups import World, process_group

LENGTH = 64


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    with process_group(World(0, 1, 0)):
        yield


def _dataset(folder: Path, cache: Path, *, split: str = "validation", seed: int = 1) -> SequenceDataset:
    return SequenceDataset(folder, read_manifest(folder), split, LENGTH, seed, cache)  # type: ignore[arg-type]


def test_an_epoch_holds_every_sequence_once(prepared: Path, tmp_path: Path) -> None:
    dataset = _dataset(prepared, tmp_path)
    dataset.prepare(0, 3 * dataset.per_epoch - 1)
    manifest = read_manifest(prepared)
    shard = open_shard(prepared, manifest.splits["validation"][0], manifest)
    whole = np.bincount(np.concatenate([shard[i].copy() for i in range(len(shard))]), minlength=512)
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
    assert [s["tokens"].tolist() for s in epochs[0]] != [s["tokens"].tolist() for s in epochs[1]]


def test_order_depends_on_seed_and_index_only(prepared: Path, tmp_path: Path) -> None:
    short, long, other = (_dataset(prepared, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    n = short.per_epoch
    short.prepare(0, 9)
    long.prepare(0, 5 * n)
    other.prepare(0, 9)
    same = [torch.equal(short.sample(i)["tokens"], long.sample(i)["tokens"]) for i in range(10)]
    assert all(same), "a longer horizon changed the beginning"
    assert not all(torch.equal(short.sample(i)["tokens"], other.sample(i)["tokens"]) for i in range(10))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_step_sees_the_same_samples_in_every_layout(prepared: Path, tmp_path: Path, ranks: int, micro: int) -> None:
    batch = 16
    dataset = _dataset(prepared, tmp_path)
    step = dataset.per_epoch // batch  # it crosses into the second epoch
    first = step * batch
    dataset.prepare(first, first + batch - 1)
    expected = sorted(dataset.sample(i)["tokens"].tolist() for i in range(first, first + batch))
    seen: list[list[int]] = []
    for rank in range(ranks):
        loader = Loader(dataset, global_batch_size=batch, micro_batch_size=micro, data_rank=rank, data_size=ranks)
        batches = loader.step(step)
        assert len(batches) == batch // (ranks * micro)
        assert all(batch.tokens.shape == (micro, LENGTH) for batch in batches)
        seen += [row for batch in batches for row in batch.tokens.tolist()]
    assert sorted(seen) == expected


def test_one_pass_sees_everything_once_and_masks_the_rest(prepared: Path, tmp_path: Path) -> None:
    dataset = _dataset(prepared, tmp_path)
    loaders = [Loader(dataset, global_batch_size=8, micro_batch_size=2, data_rank=rank, data_size=2) for rank in range(2)]
    batches = [batch for loader in loaders for step in range(loader.passes()) for batch in loader.once(step)]
    assert sum(batch.num_tokens for batch in batches) == dataset.per_epoch * LENGTH


def test_a_batch_outlives_its_dataset(prepared: Path, tmp_path: Path) -> None:
    dataset = _dataset(prepared, tmp_path)
    dataset.prepare(0, 1)
    batch = Batch.of([dataset.sample(0), dataset.sample(1)])
    expected = batch.tokens.sum()
    del dataset
    assert batch.tokens.sum() == expected


def test_a_half_written_index_is_built_again(prepared: Path, tmp_path: Path) -> None:
    first = _dataset(prepared, tmp_path)
    first.prepare(0, 0)
    expected = first.sample(0)["tokens"]
    (index,) = tmp_path.glob("*/seed1-epoch0")
    index.rename(index.with_name(".seed1-epoch0.tmp"))  # what a kill in the middle leaves
    for file in index.with_name(".seed1-epoch0.tmp").glob("*shuffle*"):
        file.write_bytes(file.read_bytes()[:10])
    again = _dataset(prepared, tmp_path)
    again.prepare(0, 0)
    assert torch.equal(again.sample(0)["tokens"], expected)


def test_indices_of_past_epochs_are_removed(prepared: Path, tmp_path: Path) -> None:
    dataset, other_seed = _dataset(prepared, tmp_path), _dataset(prepared, tmp_path, seed=11)
    other_seed.prepare(0, 0)
    n, seen = dataset.per_epoch, []
    for epoch in range(6):
        dataset.prepare(epoch * n, epoch * n)
        seen.append(dataset.sample(epoch * n)["tokens"])
        kept = {path.name for path in tmp_path.glob("*/seed1-*")}
        assert kept == {f"seed1-epoch{e}" for e in (epoch - 1, epoch) if e >= 0}
    (leftover,) = tmp_path.glob("*/seed1-epoch4")
    (leftover.with_name(".seed1-epoch4.tmp") / "x").mkdir(parents=True)  # what a kill in the middle of a removal leaves
    resumed = _dataset(prepared, tmp_path)
    for epoch in (1, 2, 3):
        resumed.prepare(epoch * n - 1, epoch * n)
        assert torch.equal(resumed.sample(epoch * n)["tokens"], seen[epoch])
    assert {path.name for path in tmp_path.glob("*/*")} == {*(f"seed1-epoch{e}" for e in (1, 2, 3)), "seed11-epoch0"}


def test_no_rank_loses_an_index_it_still_uses(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are threads here, each as slow as it likes between the barriers."""
    ranks, epochs, here = 4, 12, threading.local()
    barrier = threading.Barrier(ranks, timeout=60)
    alone = _dataset(prepared, tmp_path / "alone")
    n = alone.per_epoch

    def walk(dataset: SequenceDataset, rank: int) -> list[torch.Tensor]:
        here.rank, seen, pause = rank, [], np.random.default_rng(rank)
        for first in range(n - 1, epochs * n, n):
            dataset.prepare(first, first + 1)
            time.sleep(pause.choice([0, 0.01]))
            seen += [dataset.sample(first)["tokens"], dataset.sample(first + 1)["tokens"]]
        return seen

    expected = walk(alone, 0)
    datasets = [_dataset(prepared, tmp_path / "together") for _ in range(ranks)]
    monkeypatch.setattr(data.dataset, "dist", SimpleNamespace(get_rank=lambda: here.rank, barrier=barrier.wait))
    with ThreadPoolExecutor(ranks) as pool:
        for seen in pool.map(walk, datasets, range(ranks)):
            assert torch.equal(torch.stack(seen), torch.stack(expected))
    assert len(list((tmp_path / "together").glob("*/seed1-*"))) == 3


def test_a_moved_folder_finds_its_index_again(prepared: Path, tmp_path: Path) -> None:
    _dataset(prepared, tmp_path / "cache").prepare(0, 0)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    moved = _dataset(shutil.copytree(prepared, tmp_path / "moved"), tmp_path / "cache")
    moved.prepare(0, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == files
    assert len(files) == 3


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _other_index(folder: Path) -> None:
    shutil.copy(folder / "validation.idx", folder / "train.idx")


def _edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _double(manifest: dict) -> None:
    manifest["splits"]["train"] *= 2


def _same_shard_twice(manifest: dict) -> None:
    manifest["splits"]["validation"] = manifest["splits"]["train"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "there is no prepared data there"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json in .* is not valid"),
        (lambda folder: _edit_manifest(folder, lambda m: m.update(extra=1)), "extra"),
        (lambda folder: _edit_manifest(folder, lambda m: m["splits"]["train"][0].update(name="../x")), "name"),
        (lambda folder: _edit_manifest(folder, lambda m: m["splits"].pop("validation")), "is not valid: splits: .* 2 items"),
        (lambda folder: _edit_manifest(folder, lambda m: m["splits"].update(test=[])), "is not valid: splits.test"),
        (lambda folder: _edit_manifest(folder, lambda m: m["splits"].update(train=[])), "splits.train: .* at least 1 item"),
        (lambda folder: _edit_manifest(folder, _double), "splits.train: .* at most 1 item"),
        (lambda folder: _edit_manifest(folder, _same_shard_twice), "two splits name the same shard"),
        (lambda folder: _edit_manifest(folder, lambda m: m["tokenizer"].update(end_of_document=512)), "outside its vocabulary"),
        (lambda folder: (folder / "train.bin").unlink(), "train.bin is missing"),
        (lambda folder: _truncate(folder / "train.bin"), r"train.bin is \d+ bytes"),
        (lambda folder: _truncate(folder / "train.idx"), r"train.idx is \d+ bytes"),
        (lambda folder: _flip(folder / "train.idx"), "train.idx is changed"),
        (lambda folder: _flip(folder / "train.bin"), "train.bin is changed"),
        (_other_index, "train.idx is"),
        (lambda folder: _flip(folder / "tokenizer.model"), "tokenizer.model is changed"),
    ],
)
def test_a_damaged_folder_is_refused(prepared: Path, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    damage(folder)
    with pytest.raises(UserError, match=says):
        read_manifest(folder)


def test_an_index_that_does_not_describe_its_tokens_is_refused(prepared: Path, tmp_path: Path) -> None:
    manifest = read_manifest(prepared)
    (shard,) = manifest.splits["train"]
    with pytest.raises(UserError, match="the manifest says"):
        open_shard(prepared, shard.model_copy(update={"tokens": shard.tokens + 1}), manifest)


def test_a_split_shorter_than_a_sequence_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the validation split of .* tokens"):
        SequenceDataset(prepared, read_manifest(prepared), "validation", 10_000_000, 1, tmp_path)
