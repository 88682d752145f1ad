"""``ibnorm lab plan``: what it shows, what it counts, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.costs import stated_speeds
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.plan import make_plan

from .studies import simulate, study, write

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``ibnorm lab plan --no-calibrate`` on a terminal that is wide enough: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(path: Path, *arguments: str) -> tuple[int, str, str]:
        code = main(["lab", "plan", str(path), "--no-calibrate", *arguments])
        return code, *capsys.readouterr()

    return run


def test_the_plan_is_of_the_runs_that_a_study_makes(tmp_path: Path) -> None:
    asked = study(tmp_path)
    found = make_plan(asked, stated_speeds(asked, 1e9))
    last, ledger = simulate(asked, lambda trial: abs(trial.learning_rate - 2e-3) + 0.1 * (trial.stage == "further"))
    assert len(found.runs) == len(ledger) == last.total_estimate == due(asked, []).total_estimate
    for stage in ("tune", "further", "main", "check"):
        planned = [run.trial for run in found.runs if run.trial.stage == stage]
        made = [each.trial for each in ledger if each.trial.stage == stage]
        assert sorted(map(str, planned)) == sorted(map(str, made))  # the middle of the grid was the best
    assert found.flops == pytest.approx(sum(run.cost.flops for run in found.runs))
    trunks = sum(asked.flops(run.trial) for run in found.runs if run.trial.branches)
    assert trunks < found.flops < sum(asked.flops(run.trial) for run in found.runs)


def test_more_at_once_is_sooner(tmp_path: Path) -> None:
    asked = study(tmp_path)
    one, four = (make_plan(asked, stated_speeds(asked), at_once=n) for n in (1, 4))
    assert 0.25 * one.seconds <= four.seconds < 0.3 * one.seconds
    assert one.seconds == pytest.approx(sum(run.cost.seconds for run in one.runs))


def test_what_it_shows(tmp_path: Path, plan: Command) -> None:
    path = write(tmp_path)
    code, shown, errors = plan(path, "--runs", "--seed-sd", "0.01")
    assert (code, errors) == (0, "")
    for text in (
        "120 runs",
        "(1) D = 20 x",
        "(4) linear decay to zero over the last 20%",
        "with 80% power, if the loss of a run varies over seeds by 0.01 nats",
        "times by a stated 2e+10 FLOP/s a run, not measured",
        "main-log-m-5tpp-seed3",
        "check-tanh-m-5tpp-seed1-x0.5",
        "further-log-s-5tpp-lambda8-seed7",
        "further-rmsnorm-s-5tpp-seed8-x1.41",
    ):
        assert text in shown, text
    assert not (tmp_path / "out").exists()  # a plan that measures nothing writes nothing


def test_runs_before_tuning_have_no_rate_and_no_key(tmp_path: Path, plan: Command) -> None:
    out = tmp_path / "deep" / "plan.json"
    code, _, _ = plan(write(tmp_path), "--json", str(out))
    found: dict[str, Any] = json.loads(out.read_text())
    assert code == 0 and len(found["runs"]) == 120
    for run in found["runs"]:
        tuned = run["stage"] != "tune"
        assert (run["key"] is None) == (run["learning_rate"] is None) == tuned
        assert run["steps"] > 0 and run["flops"] > 0 and run["memory"] > 0
    assert len({run["name"] for run in found["runs"]}) == 120
    assert 0 < found["smallest_gain"] < 0.2 and found["unfair"] == {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budget": {"hours": 0.01}}, "error: budget.hours is 0.01: the study takes about"),
        ({"budget": {"flops": 1e9}}, "error: budget.flops is 1e+09: the study takes"),
        (
            {"seeds": [1]},
            "error: the design is unfair (few_seeds): there is one seed, and differences of this size come and go",
        ),
    ],
)
def test_what_it_refuses(tmp_path: Path, plan: Command, changes: dict[str, Any], sentence: str) -> None:
    code, _, errors = plan(write(tmp_path, changes))
    assert code == 2 and sentence in errors and errors.count("error:") == 1


def test_what_is_unfair_and_allowed_is_said(tmp_path: Path, plan: Command) -> None:
    code, shown, _ = plan(write(tmp_path), "seeds=[1]", "allow=[few_seeds]")
    assert code == 0 and "unfair, and allowed (few_seeds): there is one seed" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--at-once", "0"], "--at-once is 0: nothing can be planned with it; give a number above 0."),
        (["--speed", "-1"], "--speed is -1: nothing can be planned with it; give a number above 0."),
        (["--seed-sd", "nan"], "--seed-sd is nan: nothing can be planned with it; give a number above 0."),
        (["--json", "."], "--json is .: it is a folder; give the name of a file."),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, plan: Command, arguments: list[str], sentence: str) -> None:
    code, shown, errors = plan(write(tmp_path), *arguments)
    assert (code, shown, errors) == (2, "", f"error: {sentence}\n")


def test_what_cannot_be_written_or_started_is_a_sentence(
    tmp_path: Path, plan: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    code, _, errors = plan(path, "--json", str(path / "plan.json"))
    assert code == 2 and errors.startswith(f"error: --json is {path / 'plan.json'}: it cannot be written (")
    assert main(["lab", "plan", str(path), "launcher.command=[no-such-launcher, '{config}']"]) == 1
    said = "error: launcher.command is no-such-launcher: it cannot be started (No such file or directory); mend that, or plan"
    assert said in capsys.readouterr().err
    (tmp_path / "a file").write_text("")
    assert main(["lab", "plan", str(path), f"dir={tmp_path / 'a file'}"]) == 1
    assert "error: the study's folder is" in capsys.readouterr().err


def test_any_number_at_once_can_be_planned(tmp_path: Path, plan: Command) -> None:
    code, shown, _ = plan(write(tmp_path), "--at-once", "1000000000")
    assert code == 0 and "with 1000000000 at once" in shown


def test_one_training_finds_nothing_and_says_so(tmp_path: Path, plan: Command) -> None:
    out = tmp_path / "plan.json"
    code, shown, _ = plan(
        write(tmp_path, {"sizes": {"m": ...}, "seeds": [1], "allow": ["few_seeds", "one_size"]}), "--json", str(out)
    )
    assert code == 0 and "no gain would be found with one training an arm, however large" in shown and "inf" not in shown
    assert json.loads(out.read_text())["smallest_gain"] is None


def test_what_somebody_should_know_before(tmp_path: Path, plan: Command) -> None:
    _, shown, _ = plan(write(tmp_path), "tuning.seeds=[1, 9]", "horizons=[5, 80]")
    assert "Seed 1 is used for tuning and for the comparison" in shown
    assert "times over the training text" in shown
    assert "up to 20 more runs are made for each end" in shown
