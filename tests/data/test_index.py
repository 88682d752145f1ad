"""The index of an epoch: right by a slow reference, built once, whoever races and whoever is killed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibnorm_megatron.data import index_cache
from ibnorm_megatron.data.index import RECORD, EpochIndex, numbered, sequences_of
from ibnorm_megatron.data.index_cache import IndexCache
from ibnorm_megatron.errors import UserError

from ..distributed import ROOT, environment

LENGTHS = np.random.default_rng(0).integers(1, 50, 500).astype(np.int32)


def _cache(folder: Path, seed: int = 1, built: list[int] | None = None) -> IndexCache:
    def build(epoch: int) -> EpochIndex:
        if built is not None:
            built.append(epoch)
        return EpochIndex.build(LENGTHS, 8, seed, epoch)

    return IndexCache(folder, seed, build)


def _same(a: EpochIndex, b: EpochIndex) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("documents", "starts", "sequences"))


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    length=st.integers(1, 30),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 5),
)
def test_an_epoch_lays_documents_end_to_end_and_cuts(lengths: list[int], length: int, seed: int, epoch: int) -> None:
    index = EpochIndex.build(np.array(lengths, dtype=np.int32), length, seed, epoch)
    line = [(document, token) for document in index.documents.tolist() for token in range(lengths[document])]
    assert sorted(index.documents.tolist()) == list(range(len(lengths)))
    count = (len(line) - 1) // length
    assert sorted(index.sequences.tolist()) == list(range(count))
    assert sequences_of(len(line), length) == count
    for place in range(count):
        documents, bounds, skipped = index.span(place, length)
        found = []
        for number, document in enumerate(documents.tolist()):
            size, first = int(bounds[number + 1] - bounds[number]), skipped if number == 0 else 0
            assert size > 0
            found += [(document, first + token) for token in range(size)]
        begin = int(index.sequences[place]) * length
        assert found == line[begin : begin + length + 1]


def test_shards_are_numbered_one_after_another() -> None:
    shards = [np.array(part, dtype=np.int32) for part in ([3, 1], [4], [1, 5, 9])]
    lengths, firsts = numbered(shards)
    assert (lengths.tolist(), firsts) == ([3, 1, 4, 1, 5, 9], [0, 2, 3])
    assert numbered(shards[:1])[0] is shards[0]


def test_an_index_is_read_as_it_was_built_and_is_built_once(tmp_path: Path) -> None:
    built: list[int] = []
    first, second = (_cache(tmp_path, built=built) for _ in range(2))
    assert _same(first.epoch(3), EpochIndex.build(LENGTHS, 8, 1, 3))
    assert _same(second.epoch(3), first.epoch(3))
    assert built == [3]
    assert first.epoch(3).starts.flags.writeable is False


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], None]] = {
    **{f"{name} cut": lambda index, name=name: _cut(index / f"{name}.npy") for name in ("documents", "starts", "sequences")},
    **{
        f"{name} flipped": lambda index, name=name: _flip(index / f"{name}.npy")
        for name in ("documents", "starts", "sequences")
    },
    "an array gone": lambda index: (index / "starts.npy").unlink(),
    "the record gone": lambda index: (index / RECORD).unlink(),
    "the record cut": lambda index: _cut(index / RECORD),
    "the record empty": lambda index: (index / RECORD).write_text(""),
    "no record": lambda index: (index / RECORD).write_text("[1]"),
    "another version": lambda index: (index / RECORD).write_text(
        json.dumps({**json.loads((index / RECORD).read_text()), "version": 0})
    ),
    "another file in its place": lambda index: shutil.copy(index / "documents.npy", index / "sequences.npy"),
    "everything gone": lambda index: [path.unlink() for path in index.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_built_again(tmp_path: Path, damage: str) -> None:
    expected = _cache(tmp_path).epoch(0)
    DAMAGE[damage](tmp_path / "seed1-epoch0")
    built: list[int] = []
    assert _same(_cache(tmp_path, built=built).epoch(0), EpochIndex.build(LENGTHS, 8, 1, 0))
    assert built == [0]
    assert expected is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "seed1-epoch0"]


def test_indices_of_past_epochs_are_removed(tmp_path: Path) -> None:
    cache, other_seed = _cache(tmp_path), _cache(tmp_path, seed=11)
    other_seed.epoch(0)
    for epoch in range(6):
        assert _same(cache.epoch(epoch), EpochIndex.build(LENGTHS, 8, 1, epoch))
        assert {path.name for path in tmp_path.glob("seed1-*")} == {f"seed1-epoch{e}" for e in (epoch - 1, epoch) if e >= 0}
    cache.close()
    # What kills in the middle of a building and of a removal leave.
    for name in ("seed1-epoch9", "seed1-epoch4"):
        leftover = tmp_path / f".{name}.tmp-{index_cache._machine()}-1-1"
        (leftover / "x").mkdir(parents=True)
    resumed = _cache(tmp_path)
    for epoch in (1, 2, 3):
        resumed.epoch(epoch)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "seed1-epoch2", "seed1-epoch3", "seed11-epoch0"}


def test_the_epoch_before_stays_open_whatever_the_order(tmp_path: Path) -> None:
    """The last sequences of an epoch and the first of the next may be asked for in turn."""
    built: list[int] = []
    cache = _cache(tmp_path, built=built)
    for epoch in (0, 1, 0, 1, 0, 2, 0, 2, 0):
        cache.epoch(epoch)
    assert built == [0, 1, 2]


def test_what_another_run_uses_is_not_removed(tmp_path: Path) -> None:
    slow, fast = _cache(tmp_path), _cache(tmp_path)
    held = slow.epoch(0)
    for epoch in range(5):
        fast.epoch(epoch)
    assert {path.name for path in tmp_path.glob("seed1-*")} == {f"seed1-epoch{e}" for e in (0, 3, 4)}
    assert _same(held, EpochIndex.build(LENGTHS, 8, 1, 0))
    slow.close()
    fast.epoch(5)
    assert {path.name for path in tmp_path.glob("seed1-*")} == {f"seed1-epoch{e}" for e in (4, 5)}


def test_without_locks_nothing_is_removed_and_builders_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError("this file system has no locks")

    monkeypatch.setattr(index_cache.fcntl, "flock", no_locks)
    meet = threading.Barrier(4, timeout=60)

    def build(epoch: int) -> EpochIndex:
        meet.wait()  # all of them build at once
        return EpochIndex.build(LENGTHS, 8, 1, epoch)

    caches = [IndexCache(tmp_path, 1, build) for _ in range(4)]
    for epoch in range(4):
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda cache, epoch=epoch: cache.epoch(epoch), caches):
                assert _same(found, EpochIndex.build(LENGTHS, 8, 1, epoch))
    assert len(list(tmp_path.glob("seed1-*"))) == 4
    assert not list(tmp_path.glob(".*tmp*"))


@pytest.mark.parametrize("name", ["cache", "cache/below"])
def test_a_cache_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "cache").write_text("x")
    with pytest.raises(UserError, match=r"the index cache is .*cannot be kept there.*data\.index_cache"):
        _cache(tmp_path / name).epoch(0)


def test_no_rank_loses_an_index_it_still_uses(tmp_path: Path) -> None:
    """Ranks are threads here, each as slow as it likes: there is no barrier between them."""
    ranks, epochs, length = 4, 12, 8

    def walk(rank: int) -> list[list[int]]:
        cache, pause, seen = _cache(tmp_path), np.random.default_rng(rank), []
        for epoch in range(epochs):
            for asked in (max(epoch - 1, 0), epoch):
                index = cache.epoch(asked)
                time.sleep(pause.choice([0, 0.003]))
                seen.append(index.span(0, length)[0].tolist())
        return seen

    expected = [
        EpochIndex.build(LENGTHS, length, 1, asked).span(0, length)[0].tolist()
        for epoch in range(epochs)
        for asked in (max(epoch - 1, 0), epoch)
    ]
    with ThreadPoolExecutor(ranks) as pool:
        for seen in pool.map(walk, range(ranks)):
            assert seen == expected


def _race(folder: Path, log: Path, all_done: Any) -> None:
    def build(epoch: int) -> EpochIndex:
        with open(log, "a") as file:
            file.write(f"{epoch}\n")
        time.sleep(0.05)
        return EpochIndex.build(LENGTHS, 8, 1, epoch)

    cache = IndexCache(folder, 1, build)
    for epoch in range(2):
        assert _same(cache.epoch(epoch), EpochIndex.build(LENGTHS, 8, 1, epoch))
    all_done.wait(100)  # what nobody holds any more is removed


def test_processes_that_race_build_once(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("fork")
    all_done = forks.Barrier(6)
    ranks = [forks.Process(target=_race, args=(tmp_path / "cache", tmp_path / "log", all_done)) for _ in range(6)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0] * 6
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"]


_BUILDER = """
import sys, numpy as np
from pathlib import Path
from typing import Any
from ibnorm_megatron.data.index import EpochIndex
from ibnorm_megatron.data.index_cache import IndexCache
lengths = np.random.default_rng(0).integers(1, 50, 300_000).astype(np.int32)
cache = IndexCache(Path(sys.argv[1]), 1, lambda epoch: EpochIndex.build(lengths, 8, 1, epoch))
print("begun", flush=True)
for epoch in range(10_000):
    cache.epoch(epoch)
"""


def test_a_killed_builders_leftovers_do_not_matter(tmp_path: Path) -> None:
    """Real kills, each at another moment of building, writing, renaming and removing."""
    lengths = np.random.default_rng(0).integers(1, 50, 300_000).astype(np.int32)
    expected = [EpochIndex.build(lengths, 8, 1, epoch) for epoch in range(2)]
    left = set()
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _BUILDER, str(tmp_path)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.037 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        left |= {path.name.partition("-")[0] for path in tmp_path.glob(".seed*")}
        cache = IndexCache(tmp_path, 1, lambda epoch: EpochIndex.build(lengths, 8, 1, epoch))
        for epoch in range(2):
            assert _same(cache.epoch(epoch), expected[epoch])
        cache.close()
        assert not list(tmp_path.glob(".seed*"))
    assert left, "no kill came in the middle of anything"
