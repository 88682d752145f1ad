"""The benchmark of telemetry, of one model for a round: its page has what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import telemetry

from ..distributed import ROOT


def test_a_look_is_the_difference_between_the_two_blocks_of_a_round() -> None:
    case = telemetry.Case("tiny_llama", "rmsnorm", "none")
    from ibnorm_megatron.config import load_config

    config = load_config(f"configs/{case.model}.yaml")
    samples = {"with": {"block": [0.5, 0.9, 0.6]}, "without": {"block": [0.4, 0.4, 0.4]}}
    assert telemetry.cells(config, samples, 4, 256) == ["rmsnorm", "none", "512", "256", "100.0", "200.0", "2.00", "2.00 %"]


@pytest.mark.slow
def test_it_measures_and_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--models", "tiny_llama", "--norms", "ibnorm_log", "--compile", "none", "--rounds", "1", "--steps", "1"]
    telemetry.main([*given, "--out", str(tmp_path / "telemetry")])
    page = (tmp_path / "telemetry.md").read_text()
    assert "python -m benchmarks.telemetry" in page
    assert re.search(
        r"\| tiny_llama \| ibnorm_log \| none \| 512 \| 256 \| [\d.]+ \| -?[\d.]+ \| -?[\d.]+ \| -?[\d.]+ % \|", page
    )
