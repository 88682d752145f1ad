"""The benchmark of the loader on tiny sizes: files, and that what it opens is right. Its times are no test's business."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import loader
from ibnorm_megatron.data.config import DataConfig
from ibnorm_megatron.data.dataset import SequenceDataset
from ibnorm_megatron.data.prepared import read_prepared

from ..distributed import ROOT


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_it_is_measured_and_written(tmp_path: Path) -> None:
    small = ["--documents", "3000", "--tokens", "300000", "--length", "64", "--folder", str(tmp_path)]
    loader.main([*small, "--models", "tiny_llama", "--steps", "2", "--warm-up", "1", "--out", str(tmp_path / "loader")])
    page = (tmp_path / "loader.md").read_text()
    assert "python -m benchmarks.loader" in page
    assert all(text in page for text in ("the first, which builds", "when asked for", "a step ahead"))
    assert [path.name for path in tmp_path.iterdir()] == ["loader.md"]


@pytest.mark.parametrize("hole", [True, False])
def test_a_synthetic_corpus_is_one(tmp_path: Path, hole: bool) -> None:
    folder = loader.synthetic(tmp_path / "data", 20_000, 1_000_000, 500, hole=hole)
    prepared = read_prepared(DataConfig(path=str(folder)))
    dataset = SequenceDataset(prepared, "train", 256, 1, tmp_path / "cache")
    assert dataset.per_epoch == (prepared.tokens("train") - 1) // 256
    index = dataset._streams[0]._indices.epoch(0)
    assert (np.bincount(index.documents, minlength=20_000) == 1).all()
    assert (np.bincount(index.sequences, minlength=dataset.per_epoch) == 1).all()
    assert int(index.starts[-1]) == prepared.tokens("train")
    assert (dataset.sample(dataset.per_epoch - 1)["tokens"].max() == 0) == hole
