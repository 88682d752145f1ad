"""Every layout sees the same samples, a resumed run the next ones, and nothing of it depends on the thread that makes them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ibnorm_megatron.data.batch import Batch
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.loader import Loader
from ibnorm_megatron.data.prefetch import Prefetch

from ..distributed import ROOT, environment
from .making import read

LENGTH = 64


@pytest.fixture(params=["all alike", "weighted"])
def dataset(request: pytest.FixtureRequest, prepared: Path, tmp_path: Path) -> SequenceDataset:
    names = [corpus.name for _, _, corpus in read(prepared).corpora]
    weights = {name: float(number) for number, name in enumerate(names, start=1)} if request.param == "weighted" else {}
    return SequenceDataset(read(prepared, weights=weights), "train", LENGTH, 1, tmp_path, document_mask=True)


def _loader(dataset: object, batch: int, micro: int, rank: int = 0, ranks: int = 1, ahead: int = 0) -> Loader:
    return Loader(
        dataset,  # type: ignore[arg-type]
        global_batch_size=batch,
        micro_batch_size=micro,
        data_rank=rank,
        data_size=ranks,
        ahead=ahead,
    )


def _rows(batches: list[Batch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.tokens.tolist()]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_step_sees_the_same_samples_in_every_layout(dataset: SequenceDataset, ranks: int, micro: int) -> None:
    batch = 16
    first = dataset.per_epoch - 5  # it crosses into the second epoch
    expected = [dataset.sample(i)["tokens"].tolist() for i in range(first, first + batch)]
    runs: list[list[list[int]]] = [[] for _ in range(batch // micro)]
    for rank in range(ranks):
        batches = _loader(dataset, batch, micro, rank, ranks, ahead=rank % 2).batches(first)
        assert len(batches) == batch // (ranks * micro)
        for m, one in enumerate(batches):
            assert one.tokens.shape == one.documents.shape == (micro, LENGTH)
            runs[m * ranks + rank] = one.tokens.tolist()
    assert [row for run in runs for row in run] == expected


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_going_on_at_any_sample_replays_and_skips_nothing(dataset: SequenceDataset, ahead: int) -> None:
    batch, steps = 8, 12
    start = dataset.per_epoch - 40
    whole = _loader(dataset, batch, 4, ahead=ahead)
    expected = [_rows(whole.batches(start + step * batch)) for step in range(steps)]
    assert [row for step in expected for row in step] == [
        dataset.sample(i)["tokens"].tolist() for i in range(start, start + steps * batch)
    ]
    for stop in range(steps):
        resumed = _loader(dataset, batch, 2, ahead=ahead)
        assert _rows(resumed.batches(start + stop * batch)) == expected[stop]
        resumed.close()
    odd = _loader(dataset, batch, 4, ahead=ahead)  # a count that no step of this batch would have reached
    assert _rows(odd.batches(start + 3)) == [row for step in expected for row in step][3 : 3 + batch]
    whole.close()
    odd.close()


@pytest.mark.parametrize("ahead", [0, 1])
def test_one_pass_sees_everything_once_and_masks_the_rest(prepared: Path, tmp_path: Path, ahead: int) -> None:
    dataset = SequenceDataset(read(prepared), "validation", LENGTH, 0, tmp_path)
    loaders = [_loader(dataset, 8, 2, rank, 2, ahead) for rank in range(2)]
    for _ in range(2):  # one evaluation is like another
        batches = [batch for loader in loaders for step in loader.one_pass(10**9) for batch in step]
        assert sum(batch.num_tokens for batch in batches) == dataset.per_epoch * LENGTH
        assert sum(len(batch.tokens) for batch in batches) == loaders[0].passes() * 8
    (first,) = loaders[0].one_pass(1)
    assert _rows(first) == _rows(loaders[0].once(0))


def test_a_batch_outlives_its_dataset(prepared: Path, tmp_path: Path) -> None:
    dataset = SequenceDataset(read(prepared), "validation", LENGTH, 0, tmp_path)
    batch = Batch.of([dataset.sample(0), dataset.sample(1)])
    expected = batch.tokens.sum()
    del dataset
    assert batch.tokens.sum() == expected
    assert batch.documents is None
    assert batch.map(lambda tensor: tensor + 1).documents is None


class _Counted:
    """Sequences that say when they were asked for, and wait for leave if told to."""

    per_epoch = 1000

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.leave = threading.Event()
        self.leave.set()

    def sample(self, index: int) -> dict[str, Tensor]:
        self.leave.wait(60)
        if index == 13:
            raise _UNREADABLE
        self.asked.append(index)
        ids = torch.full((4,), index)
        return {"tokens": ids, "labels": ids, "loss_mask": torch.ones(4), "position_ids": torch.arange(4)}

    def nothing(self) -> dict[str, Tensor]:
        return self.sample(0)


_UNREADABLE = RuntimeError("sample 13 cannot be read")


def _until(happened: object) -> None:
    deadline = time.monotonic() + 30
    while not happened() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.001)
    assert happened()  # type: ignore[operator]


@pytest.mark.parametrize("ahead", [1, 2])
def test_it_makes_so_many_steps_ahead_and_no_more(ahead: int) -> None:
    sequences = _Counted()
    loader = _loader(sequences, 2, 2, ahead=ahead)
    for step in range(4):
        assert _rows(loader.batches(2 * step)) == [[2 * step] * 4, [2 * step + 1] * 4]
        _until(lambda step=step: len(sequences.asked) == 2 * (step + 1 + ahead))
        time.sleep(0.02)
        assert sequences.asked == list(range(2 * (step + 1 + ahead))), "each sample once, in order"
    loader.close()


def test_an_error_is_raised_by_the_step_that_it_belongs_to() -> None:
    loader = _loader(_Counted(), 2, 1, ahead=2)
    for first in (8, 10):  # sample 13 was tried already
        assert len(loader.batches(first)) == 2
    for _ in range(2):  # and again, if it is asked for again
        with pytest.raises(RuntimeError, match="sample 13 cannot be read"):
            loader.batches(12)
    assert len(loader.batches(14)) == 2, "the thread lives on"
    loader.close()


def test_closing_ends_the_thread_and_what_was_foreseen() -> None:
    before = set(threading.enumerate())
    sequences = _Counted()
    loader = _loader(sequences, 2, 1, ahead=2)
    loader.batches(0)
    sequences.leave.clear()
    (thread,) = set(threading.enumerate()) - before
    threading.Timer(0.1, sequences.leave.set).start()
    loader.close()
    assert not thread.is_alive()
    loader.close()
    assert len(loader.batches(0)) == 2, "and begins anew"
    loader.close()


def test_what_was_foreseen_wrongly_is_not_kept() -> None:
    made: list[int] = []
    prefetch = Prefetch(lambda number: made.append(number) or number)
    assert prefetch.get(1, [2, 3]) == 1
    assert prefetch.get(7, [8]) == 7
    assert prefetch.get(8) == 8
    assert prefetch.get(2) == 2
    assert made.count(7) == made.count(8) == 1
    prefetch.close()


_UNCLOSED = """
import sys, time
from ibnorm_megatron.data.prefetch import Prefetch
prefetch = Prefetch(lambda number: time.sleep(60 * number))
prefetch.get(0, [1, 2])
if sys.argv[1] == "error":
    raise KeyError("the main thread failed")
print("waiting", flush=True)
if sys.argv[1] == "wait":
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    prefetch.get(1)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("error", 1), ("wait", 3)])
def test_a_process_ends_whatever_its_thread_is_doing(how: str, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _UNCLOSED, how], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if how == "wait":
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == code


def test_threads_and_no_threads_make_the_same(dataset: SequenceDataset) -> None:
    alone, ahead = _loader(dataset, 8, 4), _loader(dataset, 8, 4, ahead=2)
    for first in np.random.default_rng(0).integers(0, 3 * dataset.per_epoch, 20).tolist():
        for a, b in zip(alone.batches(first), ahead.batches(first), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    ahead.close()
