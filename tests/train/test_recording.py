"""What a run records is what happened, whatever its layout and however seldom it records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.train.run_folder import RunFolder

from ..distributed import run_ranks
from .tiny import TARGET, arguments, curve


def test_metrics_keep_every_digit(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    card: dict[str, Any] = {"seed": 1}
    with folder.claim("train: {}\n"):
        folder.begin(card, 0)
        record = {"step": 1, "loss": 6.2342158794403076}
        folder.append_metrics(record)
    assert folder.read_metrics() == [record]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["loss"] == 6.2342158794403076


@pytest.mark.slow
def test_records_every_so_many_steps_are_those_of_every_step(tmp_path: Path, prepared: Path) -> None:
    """Between two records nothing is read back from the device, and nothing else changes."""
    curves = []
    for interval in (1, 4):
        run = tmp_path / str(interval)
        overrides = [f"log.interval={interval}", "train.steps=10", "train.precision=fp32", "train.replica_audit=3"]
        run_ranks(2, TARGET, *arguments(prepared, run, *overrides))
        curves.append(curve(run))
        assert RunFolder(run).read_summary()["tokens"] == 10 * 8 * 64
    assert list(curves[1]) == [4, 8, 10]
    assert all(curves[0][step] == found for step, found in curves[1].items())


@pytest.mark.slow
def test_an_evaluation_is_the_same_in_every_layout(tmp_path: Path, prepared: Path) -> None:
    """The loss is on the last stage, and each context rank has its tokens' share; every label counts once."""
    layouts = {
        "one": (1, ["parallel.zero_stage=0"]),
        "stages": (2, ["parallel.pipeline=2", "train.micro_batch_size=2"]),
        "context": (2, ["parallel.context=2", "parallel.zero_stage=3"]),
        "tensor": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
    }
    # Sites whose columns are whole and sharded; at one of them sigma is the unit, so that sigma / lambda is 1 / 2 there.
    norms = ["model.norm={default: ibnorm_log, final: {kind: ibnorm_tanh, scale: relative, lambda: 2}}"]
    norms += ["model.norm_placement=sub"]
    found = {}
    for name, (processes, overrides) in layouts.items():
        run = tmp_path / name
        given = ["train.steps=2", "train.precision=fp32", "evaluate.batches=2", "log.norm_cost=true", *norms, *overrides]
        run_ranks(processes, TARGET, *arguments(prepared, run, *given))
        found[name] = RunFolder(run).read_summary()
        assert found[name]["norm_seconds"] > 0
    for summary in found.values():
        assert summary["val_tokens"] == found["one"]["val_tokens"] == 2 * 8 * 64
        for value in ("loss", "val_loss", "val_bits_per_byte"):
            assert summary[value] == pytest.approx(found["one"][value], rel=1e-6)
        assert summary["sigma_over_lambda"] == pytest.approx(found["one"]["sigma_over_lambda"], rel=1e-5)
    assert found["one"]["sigma_over_lambda"] > 0
