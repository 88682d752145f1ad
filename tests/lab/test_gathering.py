"""From a ledger to observations: what has ended, what never can, and what is still to come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.gathering import gather
from ibnorm_megatron.lab.ledger import Ledger
from ibnorm_megatron.lab.matching import facts
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.lab.trials import Trial

from .entries import CARD, entry
from .running import SIZE, loaded, write_study


def _study(folder: Path, data: Path) -> tuple[Path, Study]:
    """18 trainings of the main stage, and no tuning before it."""
    sizes = {"s": SIZE, "m": {**SIZE, "hidden_size": 32, "ffn_hidden_size": 64}}
    launcher = {"attempts": 2}
    path = write_study(folder, data, sizes=sizes, seeds=[1, 2, 3], launcher=launcher, allow=["untuned", "unchecked_transfer"])
    return path, loaded(path)


def _end(study: Study, trial: Trial, status: str = "complete") -> None:
    loss = 4.0 + 1e-7 * study.tokens(trial) + 0.01 * trial.seed
    matching = facts(study.run_config(trial).to_dict(), CARD, study.flops(trial))
    values = {"reason": "" if status == "complete" else "the loss of step 9 is nan", "folder": f"runs/{study.name(trial)}"}
    lost = {"loss": loss if status == "complete" else None, "matching": matching}
    Ledger(study.folder).append(entry(trial, study.key(trial), status, **values, **lost))


def _due(study: Study) -> list[Trial]:
    return [trial for trial in due(study, Ledger(study.folder).read()).trials if trial.stage == "main"]


def test_every_trial_has_ended_or_is_pending(tmp_path: Path, prepared: Path) -> None:
    _, study = _study(tmp_path, prepared)
    assert len(gather(study, []).pending) == 18 and gather(study, []).observations == ()
    first, second, third, *_ = _due(study)
    _end(study, first)
    _end(study, second, "diverged")
    _end(study, third, "failed")
    found = gather(study, Ledger(study.folder).read())
    assert [(one.arm, one.failure) for one in found.observations] == [
        (first.arm, ""),
        (second.arm, "diverged: the loss of step 9 is nan"),
    ]
    assert third.arm in {one.arm for one in found.pending}, "it is to be tried again"
    assert len(found.pending) == 16 and {one.failure for one in found.pending} == {"it is not trained yet"}
    _end(study, third, "failed")
    again = gather(study, Ledger(study.folder).read())
    assert [one.failure for one in again.observations][2] == "failed: the loss of step 9 is nan"
    assert len(again.pending) == 15


def test_a_report_in_mid_study_fails_nobody(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seed 1 is there, and seeds 2 and 3 are not."""
    path, study = _study(tmp_path, prepared)
    for trial in [trial for trial in _due(study) if trial.seed == 1]:
        _end(study, trial)
    assert main(["lab", "report", str(path), "--out", str(tmp_path)]) == 0
    folder = tmp_path / "report"
    found = json.loads((folder / "analysis.json").read_text())
    assert {one["level"] for one in found["verdicts"]} == {"interim"}
    assert all("2 of 6 ends of training" in one["sentence"] for one in found["verdicts"])
    assert len(found["pending"]) == 12
    page = (folder / "index.html").read_text()
    assert "This is an interim look: 6 of 18 ends of training are there yet." in page
    assert "2 of 6 ends of training are there yet" in page and 'class="chip interim"' in page
    assert "has no loss" not in page
