"""Running a study whose training is pretended: claims, retries, stops, kills, several processes on one folder."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ibnorm_megatron.errors import RunFailure, UserError
from ibnorm_megatron.lab import runner
from ibnorm_megatron.lab.gathering import current, gather
from ibnorm_megatron.lab.ledger import Ledger, latest
from ibnorm_megatron.lab.locks import holder
from ibnorm_megatron.lab.runner import Share, run_study
from ibnorm_megatron.lab.study import Study

from .running import alive, finish, loaded, pretended, start

Fates = Callable[..., None]


@pytest.fixture
def fates(monkeypatch: pytest.MonkeyPatch) -> Fates:
    """Says how runs end, by arm."""

    def say(seconds_a_step: float = 0.0, **by_arm: str) -> None:
        monkeypatch.setenv("PRETENDED_FATES", json.dumps(by_arm))
        monkeypatch.setenv("PRETENDED_STEP", str(seconds_a_step))

    return say


def _run(study: Study, at_once: int = 2, **options: bool) -> str:
    said = io.StringIO()
    run_study(study, at_once=at_once, console=Console(file=said, width=200), **options)
    return said.getvalue()


def _starts(study: Study) -> dict[str, list[tuple[int, int]]]:
    """By run: the step that each start went on from, and its process."""
    return {
        path.parent.name.split("-")[1]: [tuple(map(int, line.split())) for line in path.read_text().splitlines()]
        for path in (study.folder / "runs").glob("*/starts")
    }


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def _steps(study: Study) -> int:
    """Steps recorded by all runs."""
    return sum(len(path.read_bytes().splitlines()) for path in (study.folder / "runs").glob("*/metrics.jsonl"))


def _steps_of(study: Study, process: int) -> list[int]:
    """Steps recorded by the runs that one process trains now."""
    held = [
        trial
        for trial in runner.due_of(study, []).trials
        if (who := holder(study.folder, study.key(trial))) and who.process == process
    ]
    found = [study.folder / "runs" / study.name(trial) / "metrics.jsonl" for trial in held]
    return [len(path.read_bytes().splitlines()) for path in found if path.is_file()]


def test_every_trial_is_trained_once_and_recorded(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared, seeds=[1, 2], allow=["few_seeds", "one_size", "untuned"]))
    said = _run(study)
    entries = Ledger(study.folder).read()
    assert len(entries) == len(latest(entries)) == 6
    assert {entry.status for entry in entries} == {"complete"}
    assert said.count("started main-") == said.count("complete main-") == 6
    for entry in entries:
        assert entry.key == study.key(entry.trial)
        assert entry.folder == f"runs/{study.name(entry.trial)}"
        assert (entry.loss, entry.tokens, entry.parameters) == (4.0, 25 * 512, 2560)
        assert entry.seconds == pytest.approx(0.25)
        assert entry.found["step"] == 25
        assert "val_loss" not in entry.found
        assert (study.folder / entry.folder / "starts").read_text().count("\n") == 1
        assert (study.folder / "configs" / f"{study.name(entry.trial)}.yaml").is_file()
        assert "ended" in (study.folder / "logs" / f"{study.name(entry.trial)}.log").read_text()
    before = Ledger(study.folder).path.read_bytes()
    assert "started" not in _run(study)  # nothing is left
    assert Ledger(study.folder).path.read_bytes() == before
    found = gather(study, entries).observations
    assert len(found) == 6
    assert {(one.loss, one.failure, one.tokens, one.flops) for one in found} == {
        (4.0, "", 12800, study.flops(entries[0].trial))
    }
    assert len({one.cluster for one in found}) == 6


def test_diverged_runs_are_results_and_failed_ones_are_tried_again(tmp_path: Path, prepared: Path, fates: Fates) -> None:
    study = loaded(pretended(tmp_path, prepared, launcher={"attempts": 2}))
    fates(identity="diverge", log="crash")
    said = _run(study, at_once=1)
    entries = Ledger(study.folder).read()
    by_arm = {arm: [entry for entry in entries if entry.trial.arm == arm] for arm in study.config.arms}
    assert [entry.status for entry in by_arm["layernorm"]] == ["complete"]
    (diverged,) = by_arm["identity"]
    assert (diverged.status, diverged.loss) == ("diverged", None)
    assert diverged.reason == "the loss of step 3 is nan: not finite."
    assert [entry.status for entry in by_arm["log"]] == ["failed", "failed"]
    assert by_arm["log"][0].reason == "exit code 1: MemoryError: no more"
    assert "failed main-log" in said
    found = {one.arm: one for one in gather(study, entries).observations}
    assert found["identity"].loss != found["identity"].loss
    assert found["identity"].failure.startswith("diverged: the loss of step 3")
    assert found["log"].failure == "failed: exit code 1: MemoryError: no more"
    assert found["identity"].tokens == found["layernorm"].tokens
    assert "started" not in _run(study)
    fates()
    assert "complete main-log" in _run(study, retry_failed=True)  # after a mend
    assert {one.arm: one.failure == "" for one in gather(study, Ledger(study.folder).read()).observations} == {
        "layernorm": True,
        "identity": False,
        "log": True,
    }


def test_a_study_in_which_everything_fails_stops_with_the_reason(tmp_path: Path, prepared: Path, fates: Fates) -> None:
    study = loaded(pretended(tmp_path, prepared, launcher={"attempts": 5}))
    fates(layernorm="refuse", identity="refuse", log="refuse")
    with pytest.raises(RunFailure, match=r"3 starts in a row failed, the last with: data.path is nowhere: it is not there"):
        _run(study, at_once=1)
    assert [entry.status for entry in Ledger(study.folder).read()] == ["failed"] * 3


def test_a_run_that_somebody_keeps_stopping_fails_in_the_end(tmp_path: Path, prepared: Path, fates: Fates) -> None:
    study = loaded(pretended(tmp_path, prepared, launcher={"attempts": 2}))
    fates(log="stop")
    _run(study)
    reasons = [entry.reason for entry in Ledger(study.folder).read() if entry.trial.arm == "log"]
    assert reasons[0] == "it was stopped from outside 2 times"
    starts = [step for step, _ in _starts(study)["log"]]
    assert starts == list(range(len(starts)))  # each went on from what the one before had saved


def test_a_command_that_is_not_there_is_said(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared, launcher={"command": ["no-such-launcher", "{config}"]}))
    with pytest.raises(RunFailure, match=r"launcher.command is no-such-launcher: it cannot be started"):
        _run(study)
    assert Ledger(study.folder).read() == []
    claim = runner.Claims(study.folder).take(study.key(runner.due_of(study, []).trials[0]))
    assert claim is not None  # nothing is left taken


def test_runs_that_do_not_match_stop_the_study(tmp_path: Path, prepared: Path, fates: Fates) -> None:
    study = loaded(pretended(tmp_path, prepared))
    _run(study)
    ledger = Ledger(study.folder)
    ledger.path.write_text(ledger.path.read_text().replace('"initial_weights": "w0"', '"initial_weights": "w1"', 1))
    with pytest.raises(UserError, match="initial_weights of runs/main-"):
        _run(study)


def test_a_run_that_ended_while_nobody_looked_is_recorded_without_training(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared))
    _run(study)
    ledger = Ledger(study.folder)
    *lines, last = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines) + last[:100])
    said = _run(study)
    assert "was cut off" in said
    assert "started" not in said
    assert len(latest(ledger.read())) == 3
    assert all(len(starts) == 1 for starts in _starts(study).values())


def test_a_run_with_another_config_than_it_was_given_is_no_result(tmp_path: Path, prepared: Path, fates: Fates) -> None:
    study = loaded(pretended(tmp_path, prepared, launcher={"attempts": 1}))
    fates(log="other")
    _run(study)
    by_arm = {entry.trial.arm: entry for entry in Ledger(study.folder).read()}
    assert by_arm["layernorm"].status == by_arm["identity"].status == "complete"
    assert by_arm["log"].status == "failed" and by_arm["log"].loss is None
    assert by_arm["log"].reason == (
        "it was trained with another config than the study's: train.weight_decay is 0.5 and was to be 0.1; launcher.command "
        "has to hand {config} on as it is"
    )


def test_an_arm_that_was_renamed_is_trained_again_and_counted(tmp_path: Path, prepared: Path) -> None:
    _run(loaded(pretended(tmp_path, prepared)))
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity", "logarithm": "ibnorm_log"}
    renamed = loaded(pretended(tmp_path, prepared, arms=arms))
    said = _run(renamed)
    assert said.count("started main-") == said.count("started main-logarithm") == 1
    entries = Ledger(renamed.folder).read()
    assert (len(entries), len(gather(renamed, current(renamed, entries)).observations)) == (4, 3)


def test_what_a_changed_study_no_longer_asks_for_stays_and_is_not_counted(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared))
    _run(study)
    changed = loaded(pretended(tmp_path, prepared, batch_tokens=1024))
    entries = Ledger(changed.folder).read()
    assert (len(entries), current(changed, entries), gather(changed, entries).observations) == (3, [], ())
    fewer = loaded(pretended(tmp_path, prepared, arms={"layernorm": "layernorm", "identity": "ibnorm_identity"}))
    assert {entry.trial.arm for entry in current(fewer, entries)} == {"layernorm", "identity"}


def test_a_stop_lets_runs_save_and_the_same_command_goes_on(tmp_path: Path, prepared: Path) -> None:
    path = pretended(tmp_path, prepared)
    study = loaded(path)
    first = start(path, "--at-once", 2, PRETENDED_STEP="0.1")
    _until(lambda: _steps(study) > 6)
    first.send_signal(signal.SIGINT)
    code, said = finish(first)
    assert code == 1
    assert "stopped main-" in said
    assert "SIGINT stopped it when 0 of about 3 trials were done; the same command goes on" in said
    assert Ledger(study.folder).read() == []
    assert not any(alive(process) for starts in _starts(study).values() for _, process in starts)
    assert finish(start(path, "--at-once", 2))[0] == 0
    starts = _starts(study)
    for arm in ("layernorm", "identity"):
        (_, _), (again, _) = starts[arm]
        assert again > 0
    assert [entry.status for entry in Ledger(study.folder).read()] == ["complete"] * 3


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, prepared: Path) -> None:
    path = pretended(tmp_path, prepared)
    study = loaded(path)
    deaf = json.dumps(dict.fromkeys(study.config.arms, "deaf"))
    process = start(path, PRETENDED_STEP="5", PRETENDED_FATES=deaf)
    _until(lambda: _starts(study))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)  # a launcher's repetition
    time.sleep(runner._IMPATIENT_SECONDS)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process, 30)[0] == 1
    assert not any(alive(process) for starts in _starts(study).values() for _, process in starts)


def test_what_a_killed_one_left_is_picked_up_by_another(tmp_path: Path, prepared: Path) -> None:
    path = pretended(tmp_path, prepared, seeds=[1, 2, 3], allow=["one_size", "untuned"])
    study = loaded(path)
    doomed, other = (start(path, "--at-once", 2, "--task", task, "--tasks", 2, PRETENDED_STEP="0.2") for task in (0, 1))
    _until(lambda: any(3 <= steps <= 10 for steps in _steps_of(study, doomed.pid)))
    doomed.kill()
    assert finish(other)[0] == 0
    finish(doomed)
    entries = Ledger(study.folder).read()
    assert [entry.status for entry in entries] == ["complete"] * 9
    assert len(latest(entries)) == 9
    begun = [list(map(int, line.split())) for found in study.folder.glob("runs/*/starts") for line in found.open()]
    assert 9 < len(begun) <= 11  # the killed one's two had saved, and went on
    assert sum(step > 0 for step, _ in begun) == len(begun) - 9


def test_a_run_that_outlives_its_starter_is_waited_for(tmp_path: Path, prepared: Path) -> None:
    path = pretended(tmp_path, prepared)
    study = loaded(path)
    deaf = json.dumps(dict.fromkeys(study.config.arms, "deaf"))
    first = start(path, PRETENDED_STEP="0.2", PRETENDED_FATES=deaf)
    _until(lambda: _starts(study))
    first.kill()
    first.wait()
    ((_, process),) = next(iter(_starts(study).values()))
    assert alive(process)
    assert finish(start(path))[0] == 0
    assert all(len(starts) == 1 for starts in _starts(study).values())
    assert [entry.status for entry in Ledger(study.folder).read()] == ["complete"] * 3
    finish(first)


def test_without_locks_each_takes_its_own_share(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = loaded(pretended(tmp_path, prepared, seeds=[1, 2, 3], allow=["one_size", "untuned"]))
    real = runner.Claims

    class Lockless(real):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.locks = False

    monkeypatch.setattr(runner, "Claims", Lockless)
    own = [trial for trial in runner.due_of(study, []).trials if Share(0, 2).holds(study.key(trial))]
    assert 0 < len(own) < 9
    said = io.StringIO()
    done = runner.due_of

    def only_own(study: Study, entries: list) -> runner.Due:  # the other share is another process's, which never comes
        due = done(study, entries)
        if len(latest(entries)) == len(own):
            raise RunFailure(runner.Problem("the test", "done", "its share is over", "look"))
        return due

    with pytest.raises(RunFailure, match="its share is over"):
        run_study(study, at_once=4, share=Share(0, 2), console=Console(file=said, width=300), due=only_own)
    assert {entry.trial for entry in Ledger(study.folder).read()} == set(own)
    assert "is on a file system without locks: let several `ibnorm lab run` have each its own --task" in said.getvalue()


@pytest.mark.parametrize(("keep", "left"), [("last", {"main"}), ("none", set()), ("all", {"tune", "main"})])
def test_only_the_checkpoints_that_are_asked_for_stay(tmp_path: Path, prepared: Path, keep: str, left: set[str]) -> None:
    study = loaded(
        pretended(
            tmp_path,
            prepared,
            tuning={"learning_rates": [1e-3, 2e-3, 4e-3], "extensions": 0},
            launcher={"keep": keep},
            allow=["few_seeds", "one_size", "edge"],
        )
    )
    _run(study, at_once=4)
    assert len(latest(Ledger(study.folder).read())) == 12
    found = {path.parent.parent.name.split("-")[0] for path in study.folder.glob("runs/*/checkpoints/step-*")}
    assert found == left
    assert not list(study.folder.glob("runs/*/.checkpoints.removed"))
    assert "started" not in _run(study)  # a run whose state is gone is not trained again


def test_signals_are_as_before_afterwards(tmp_path: Path, prepared: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    _run(loaded(pretended(tmp_path, prepared)), at_once=3)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None
