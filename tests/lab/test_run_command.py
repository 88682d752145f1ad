"""``ibnorm lab run`` and ``ibnorm lab status`` as somebody types them: what is refused, and what is shown of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.ledger import Ledger
from ibnorm_megatron.lab.locks import Claims
from ibnorm_megatron.lab.matching import facts
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.lab.trials import Trial

from .entries import CARD, entry
from .running import loaded, pretended


def _entry(study: Study, trial: Trial, **values: object) -> None:
    matching = facts(study.run_config(trial).to_dict(), CARD, study.flops(trial))
    folder = f"runs/{study.name(trial)}"
    given = {"folder": folder, "matching": matching, "flops": study.flops(trial), "found": {"seconds": 60.0}, **values}
    Ledger(study.folder).append(entry(trial, study.key(trial), **given))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--at-once", "0"], "--at-once is 0: there is no such number of runs; give 1 or more."),
        (["--task", "1"], "--task is 1: it means nothing without --tasks; give --tasks as well."),
        (["--tasks", "4"], "--tasks is 4: it means nothing without --task; give --task as well."),
        (["--task", "4", "--tasks", "4"], "--task is 4: there is no such one of 4; give one from 0 to 3."),
        (["budget.flops=1"], "budget.flops is 1: the study takes"),
        (["allow=[few_seeds]"], "the design is unfair (untuned)"),
        (["seeds=[1"], "seeds is '[1'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    path = pretended(tmp_path, prepared)
    assert main(["lab", "run", str(path), *options]) == 2
    assert says in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def test_status_of_a_study_that_nobody_began(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "status", str(pretended(tmp_path, prepared))]) == 0
    shown = capsys.readouterr().out
    assert "tiny: nobody runs it, time left unknown" in shown
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def test_status_of_a_study_under_way(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pretended(tmp_path, prepared, seeds=[1, 2, 3], allow=["one_size", "untuned"])
    study = loaded(path)
    done, wrong, broken, *others = due(study, []).trials
    _entry(study, done)
    _entry(study, wrong, status="diverged", reason="the loss of step 9 is nan.")
    for _ in range(2):
        _entry(study, broken, status="failed", reason="exit code 1: MemoryError [of the machine]", matching={})
    claim = Claims(study.folder).take(study.key(others[0]))
    assert claim is not None
    run = study.folder / "runs" / study.name(others[0])
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 7, "loss": 3.5, "tokens_per_second": 99.0, "step_seconds": 2.0}\n')
    assert main(["lab", "status", str(path)]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("│ main")).replace("│", " ").split()
    assert row == ["main", "1", "1", "1", "1", "5"]
    assert f"diverged {study.name(wrong)}: the loss of step 9 is nan." in shown
    assert f"failed {study.name(broken)}: exit code 1: MemoryError [of the machine]" in shown
    assert "it failed 2 times" in shown
    assert "7/25" in shown
    assert "3.5000" in shown
    # Six runs like one that took a minute, one at a time.
    assert "tiny: 1 running, about 6 min left with as many at a time" in shown
    claim.release()


def test_an_arm_of_another_name_is_another_arm(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = loaded(pretended(tmp_path, prepared))
    for trial in due(study, []).trials:
        _entry(study, trial)
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity", "logarithm": "ibnorm_log"}
    assert main(["lab", "status", str(pretended(tmp_path, prepared, arms=arms))]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("│ main")).replace("│", " ").split()
    assert row == ["main", "2", "1"]
    assert "is finished" not in shown


def test_a_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").write_text("a file")
    assert main(["lab", "run", str(pretended(tmp_path, prepared))]) == 1
    said = (
        f"error: the study's folder is {tmp_path / 'study'}: it cannot be written (Not a directory); mend that, or give another"
    )
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_status_says_what_does_not_match_and_why_a_study_is_stuck(
    tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuning = {"learning_rates": [1e-3, 2e-3, 4e-3], "extensions": 0}
    path = pretended(tmp_path, prepared, tuning=tuning, allow=["few_seeds", "one_size"])
    study = loaded(path)
    for number, trial in enumerate(due(study, []).trials):
        _entry(study, trial, loss=3 + trial.learning_rate, parameters=1000 + (number == 4))
    assert main(["lab", "status", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "not matched: parameters of runs/tune-" in shown
    assert "the best learning rate of layernorm is 0.001: it is at the end of the grid" in shown
