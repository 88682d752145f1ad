"""Comparing runs: a table and a picture of arms that may be compared, and a refusal of those that may not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.compare import _smoothed, load_arms
from ibnorm_megatron.train.run_folder import RunFolder

from ..distributed import run_ranks


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
        run_ranks(1, "ibnorm_megatron.train", *common, *overrides, f"run.dir={folder / name}")
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


Changed = Callable[..., Path]


@pytest.fixture
def changed(runs: dict[str, Path], tmp_path: Path) -> Changed:
    """A copy of the ibnorm run with other numbers in its summary; None takes a key out, and metrics may be others."""

    def change(name: str, summary: dict[str, Any], metrics: Callable[[dict[str, Any]], bool] | None = None) -> Path:
        copy = tmp_path / name
        shutil.copytree(runs["ibnorm"], copy, ignore=shutil.ignore_patterns("checkpoints", "index"))
        told = json.loads((copy / "summary.json").read_text()) | summary
        (copy / "summary.json").write_text(json.dumps({key: value for key, value in told.items() if value != "gone"}))
        if metrics:
            lines = [line for line in (copy / "metrics.jsonl").read_text().splitlines() if metrics(json.loads(line))]
            (copy / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return copy

    return change


def test_a_run_without_a_training_line_is_drawn_by_its_evaluations(
    changed: Changed, tmp_path: Path, runs: dict[str, Path]
) -> None:
    for number, keep in enumerate((lambda record: "val_loss" in record, lambda record: False)):
        run = changed(f"run{number}", {}, keep)
        picture = tmp_path / f"{number}.svg"
        assert main(["compare", str(runs["rmsnorm"]), str(run), "--picture", str(picture)]) == 0
        assert picture.stat().st_size > 10_000


def test_a_loss_that_is_no_number_is_shown_as_such(
    changed: Changed, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = changed("nan", {"val_loss": None, "val_bits_per_byte": None, "norm_share": None})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records[5:]:
        record.update({key: None for key in ("loss", "val_loss") if key in record})
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    picture = tmp_path / "curves.svg"
    assert main(["compare", str(runs["rmsnorm"]), str(run), "--picture", str(picture)]) == 0
    assert capsys.readouterr().out.count("diverged") == 2
    (arm,) = load_arms([run])
    assert sum(record.get("loss", 0) is None for record in arm.metrics) > 3


def test_a_gap_stays_a_gap_when_smoothed() -> None:
    nan = float("nan")
    assert _smoothed([1.0, 2.0, 3.0, 4.0], span=3) == [1.5, 2.0, 3.0, 3.5]
    assert repr(_smoothed([1.0, nan, 3.0, 5.0], span=3)) == repr([1.0, nan, 4.0, 4.0])
    assert _smoothed([]) == []


def test_records_that_lack_what_is_compared_are_refused(
    changed: Changed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = changed("lacking", {"val_loss": "gone", "tokens_per_second": "gone"})
    assert main(["compare", str(run)]) == 2
    assert "its records lack summary.json's val_loss, summary.json's tokens_per_second" in capsys.readouterr().err


def test_every_run_that_cannot_be_compared_is_named(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [runs["rmsnorm"], runs["faster"], tmp_path / "nowhere", runs["rmsnorm"].parent / "ibnorm" / ".." / "rmsnorm"]
    assert main(["compare", *map(str, given)]) == 2
    errors = capsys.readouterr().err
    for text in ("train.lr of", "nowhere/config.yaml: it cannot be read", "../rmsnorm: it is given twice"):
        assert text in errors


@pytest.mark.parametrize(
    ("name", "says"), [("x.foo", "its kind is not known"), ("x", "its kind is not known"), ("folder.png", "it is a folder")]
)
def test_a_picture_that_cannot_be_is_refused_before_anything_else(
    name: str, says: str, tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert main(["compare", str(runs["rmsnorm"]), "--picture", str(tmp_path / name)]) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_picture_that_cannot_be_written_is_said(
    tmp_path: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["compare", str(runs["rmsnorm"]), "--picture", str(tmp_path / "file" / "x.png")]) == 2
    assert "it cannot be written" in capsys.readouterr().err
