"""Comparing runs: a table and a picture of arms that may be compared, and a refusal of those that may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.train.run_folder import RunFolder

from ..distributed import torchrun


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, Path]:
    """Three short runs: two norms, and one with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["configs/tiny_llama.yaml", f"data.path={prepared}", "model.vocab_size=512", "train.steps=12", "log.console=false"]
    arms = {
        "rmsnorm": ["model.norm=rmsnorm", "log.norm_cost=true"],
        "ibnorm": ["model.norm=ibnorm_log", "evaluate.interval=6"],
        "faster": ["model.norm=ibnorm_log", "train.lr=1e-2"],
    }
    for name, overrides in arms.items():
        torchrun(1, "-m", "ibnorm_megatron.train", *common, *overrides, f"run.dir={folder / name}")
    return {name: folder / name for name in arms}


def test_prints_a_table_and_draws_the_curves(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "curves.png"
    # The two evaluate at different steps, which changes no curve.
    assert main(["compare", str(runs["rmsnorm"]), str(runs["ibnorm"]), "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    for name in ("rmsnorm", "ibnorm"):
        assert f"{RunFolder(runs[name]).read_summary()['val_loss']:.4f}" in shown
    assert "ibnorm_log" in shown
    assert f"{100 * RunFolder(runs['rmsnorm']).read_summary()['norm_share']:.1f} %" in shown
    assert "One seed proves nothing" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(picture.read_bytes()) > 10_000


def test_arms_that_differ_in_more_than_the_norm_are_refused(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs["rmsnorm"]), str(runs["faster"])]) == 2
    assert f"train.lr of {runs['faster']} is 0.01: {runs['rmsnorm']} has 0.003" in capsys.readouterr().err


def test_an_unfinished_run_is_refused(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.yaml", "run_card.json", "metrics.jsonl"):
        (stopped / name).write_bytes((runs["rmsnorm"] / name).read_bytes())
    assert main(["compare", str(stopped)]) == 2
    assert "it is not complete" in capsys.readouterr().err
