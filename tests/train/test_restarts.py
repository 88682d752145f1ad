"""``ibnorm train`` with ranks that are killed: the run completes by itself, with the curve of an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import ROOT, environment
from ..workers.ranks import ranks
from .tiny import curve

pytestmark = pytest.mark.slow


def _arguments(data: Path, run: Path, *overrides: str) -> list[str]:
    sizes = [f"model.vocab_size={VOCABULARY}", "log.console=false", "checkpoint.interval=20", "model.dropout=0.1"]
    return ["configs/tiny_llama.yaml", f"data.path={data}", f"run.dir={run}", *sizes, *overrides]


def _start(*arguments: str) -> subprocess.Popen[str]:
    line = ["ibnorm", "train", *arguments]
    return subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if until():
            return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    pytest.fail(process.communicate()[1][-4000:])


def _lines(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.is_file() else 0


def _ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    (torchrun,) = psutil.Process(process.pid).children()
    return torchrun.children()


def _resumed(run: Path) -> list[dict[str, int]]:
    return RunFolder(run).read_card().get("resumed", []) if (run / "run_card.json").is_file() else []


def test_a_run_whose_ranks_are_killed_completes_by_itself(tmp_path: Path, prepared: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps = "train.steps=200"
    with ranks(_arguments(prepared, whole, steps), 2, tmp_path / "logs") as undisturbed:
        assert undisturbed.codes([0, 1], seconds=240) == [0, 0], undisturbed.said(0)
    process = _start("--nproc-per-node", "2", "--max-restarts", "3", *_arguments(prepared, killed, steps))
    chosen = random.Random(time.time_ns())  # noqa: S311 (no secret)
    for kills in range(2):
        _wait(process, lambda kills=kills: len(_resumed(killed)) == kills and _lines(killed) > 30 + 60 * kills)
        chosen.choice(_ranks_of(process)).kill()
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-4000:]
    assert len(_resumed(killed)) == 2
    assert curve(killed) == curve(whole)
    assert RunFolder(killed).read_summary()["val_loss"] == RunFolder(whole).read_summary()["val_loss"]
    assert "Traceback" not in error + out, error
    assert "is gone (host" in error


def test_slurms_signal_to_every_process_saves_and_ends_well(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    process = _start("--nproc-per-node", "2", *_arguments(prepared, run, "train.steps=3000"))
    _wait(process, lambda: _lines(run) > 5)
    top = psutil.Process(process.pid)
    for one in [top, *top.children(recursive=True)]:
        one.send_signal(signal.SIGUSR1)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error[-4000:]
    assert RunFolder(run).read_summary()["status"] == "stopped"
    assert RunFolder(run).latest_checkpoint()


def test_allowed_fields_are_added_to_the_configs(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = _arguments(prepared, run, "train.steps=1", "run.allow=[train.lr]")
    assert main(["train", *given, "--allow", "train.steps", "--allow", "data"]) == 0
    assert RunFolder(run).read_config()["run"]["allow"] == ["train.lr", "train.steps", "data"]
    assert main(["train", *given, "--max-restarts", "-1"]) == 2
    assert "--max-restarts is -1" in capsys.readouterr().err
