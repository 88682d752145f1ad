"""The benchmark of layouts on tiny sizes: files, and bytes that are what the formula says. Its times are no test's business."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import layouts
from ibnorm_megatron.config import load_config
from ibnorm_megatron.train.traffic import step_messages

from ..distributed import ROOT


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_layout_is_measured_and_written(tmp_path: Path) -> None:
    out = tmp_path / "layouts"
    sizes = ["--width", "256", "--layers", "2", "--vocabulary", "512", "--length", "32"]
    given = [*sizes, "--processes", "2", "--layouts", "tp2-sp", "--steps", "1", "--rounds", "1", "--out", str(out)]
    layouts.main(given)
    with out.with_suffix(".csv").open(newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"tensor", "model", "world"}
    config = load_config(layouts.CONFIG, [*layouts.shape(layouts.parse(given)), *layouts.LAYOUTS[2]["tp2-sp"]], world_size=2)
    activations = 2 * 32 * 256 * 4  # bytes of a micro-batch's hidden states; there are 4 micro-batches
    large = [message for message in step_messages(config, 2) if message.payload % activations == 0]
    assert sum(message.payload for message in large) == 4 * activations * (2 * (6 + 4) + 3 + 2)
    for row in rows.values():
        assert float(row["bytes_counted"]) == float(row["bytes_by_formula"]) > 0
        assert float(row["median_seconds"]) > 0 and int(row["grown_bytes"]) > 0
    page = out.with_suffix(".md").read_text()
    assert "python -m benchmarks.layouts" in page and "say nothing about GPUs" in page
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("processes", "name"), [(n, name) for n, names in layouts.LAYOUTS.items() for name in names])
def test_every_layout_can_be_run(processes: int, name: str) -> None:
    overrides = [*layouts.shape(layouts.parse([])), *layouts.LAYOUTS[processes][name]]
    assert step_messages(load_config(layouts.CONFIG, overrides, world_size=processes), processes)
