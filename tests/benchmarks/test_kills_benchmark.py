"""The benchmark of kills, with three of them: what it counts, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kills

from ..distributed import ROOT


@pytest.mark.slow
def test_it_kills_and_writes_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kills.main(["--kills", "3", "--seed", "5", "--out", str(tmp_path / "kills")])
    page = (tmp_path / "kills.md").read_text()
    assert "python -m benchmarks.kills" in page
    assert "| where the kill struck | kills |" in page
    assert "bit for bit" in page
