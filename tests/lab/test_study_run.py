"""A real study, really trained: three arms, a trunk and a branch each, by two processes of which one is killed; and one that
diverges."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.gathering import gather
from ibnorm_megatron.lab.ledger import Ledger, latest
from ibnorm_megatron.lab.locks import holder
from ibnorm_megatron.lab.matching import check
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.train.run_folder import RunFolder

from ..distributed import ROOT
from .running import finish, loaded, start, write_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> tuple[Path, Study]:
    """A study that two processes ran. One was killed in the middle of its first run."""
    path = write_study(tmp_path_factory.mktemp("real"), prepared, horizons=[10, 20])
    study = loaded(path)
    doomed, other = (start(path, "--at-once", 1, "--task", task, "--tasks", 2) for task in (0, 1))
    deadline = time.monotonic() + 240
    while not _has_begun(study, doomed.pid):
        assert time.monotonic() < deadline, "it did not begin"
        assert doomed.poll() is None, finish(doomed)
        time.sleep(0.05)
    doomed.kill()
    code, said = finish(other, 500)
    assert code == 0, said
    finish(doomed)
    return path, study


def _has_begun(study: Study, process: int) -> bool:
    """Whether a process is some steps into a run."""
    for path in (study.folder / "runs").glob("main-*/metrics.jsonl"):
        key = next((lock.stem for lock in (study.folder / "claims").glob(f"{path.parent.name[-8:]}*.lock")), "")
        who = holder(study.folder, key)
        if who is not None and who.process == process and 3 <= len(path.read_bytes().splitlines()) <= 60:
            return True
    return False


def test_every_run_is_there_once_and_they_match(killed: tuple[Path, Study]) -> None:
    _, study = killed
    entries = Ledger(study.folder).read()
    assert [entry.status for entry in entries] == ["complete"] * 6
    assert len(latest(entries)) == 6
    found = check(entries)
    assert found.problems == ()
    assert not any("digest" in warning for warning in found.warnings)
    assert len({entry.matching["initial_weights"] for entry in entries}) == 1
    for horizon in (10.0, 20.0):
        of_it = [entry for entry in entries if entry.trial.horizon == horizon]
        assert {entry.tokens for entry in of_it} == {int(horizon) * 2560}
        losses = {entry.trial.arm: entry.loss for entry in of_it}
        assert losses["identity"] == pytest.approx(losses["layernorm"], abs=1e-3)  # LayerNorm by another code path
        assert losses["log"] != pytest.approx(losses["layernorm"], abs=1e-6)


def test_a_changed_record_is_found(killed: tuple[Path, Study]) -> None:
    entries = Ledger(killed[1].folder).read()
    entries[2].matching["samples"][1][1] = "another"
    entries[3].matching["config"]["train"]["weight_decay"] = 0.2
    said = [str(problem) for problem in check(entries).problems]
    assert any("sample 1 of " in text for text in said)
    assert any(text.startswith("train.weight_decay of ") for text in said)


def test_what_the_killed_one_trained_went_on(killed: tuple[Path, Study]) -> None:
    _, study = killed
    cards = [RunFolder(path).read_card() for path in (study.folder / "runs").iterdir()]
    resumed = [again["step"] for card in cards for again in card.get("resumed", [])]
    assert len(resumed) == 1
    assert 0 < resumed[0] < 100
    parents = [card["parent"]["step"] for card in cards if "parent" in card]
    assert parents == [40, 40, 40]  # 50 steps, of which the last fifth decays


def test_trunks_keep_their_last_state_only(killed: tuple[Path, Study]) -> None:
    _, study = killed
    states = {
        path.name: sorted(state.name for state in path.glob("checkpoints/step-*")) for path in study.folder.glob("runs/*")
    }
    assert {name.split("-")[3]: found for name, found in states.items()} == {
        "10tpp": ["step-00000050"],
        "20tpp": ["step-00000100"],
    }
    assert (study.folder / "index").is_dir()
    assert not list(study.folder.glob("runs/*/index"))


def test_observations_are_the_ends_of_training(killed: tuple[Path, Study]) -> None:
    _, study = killed
    found = gather(study, Ledger(study.folder).read()).observations
    assert {(one.arm, one.horizon) for one in found} == {
        (arm, horizon) for arm in study.config.arms for horizon in (10.0, 20.0)
    }
    assert all(one.seconds > 0 and one.failure == "" and (study.folder / one.run).is_dir() for one in found)
    assert len({one.cluster for one in found}) == 3  # a trunk and its branch are one


def test_status_tells_of_it(killed: tuple[Path, Study], capsys: pytest.CaptureFixture[str]) -> None:
    path, study = killed
    before = {file: file.stat().st_mtime_ns for file in study.folder.rglob("*")}
    assert main(["lab", "status", str(path)]) == 0
    assert {file: file.stat().st_mtime_ns for file in study.folder.rglob("*")} == before
    shown = capsys.readouterr().out
    assert "tiny is finished" in shown
    row = next(line for line in shown.splitlines() if "main" in line and "complete" not in line)
    assert "6" in row.split()


def test_running_it_again_does_nothing(killed: tuple[Path, Study], capsys: pytest.CaptureFixture[str]) -> None:
    path, study = killed
    before = Ledger(study.folder).path.read_bytes()
    assert main(["lab", "run", str(path)]) == 0
    shown = capsys.readouterr()
    assert "tiny is done: 6 complete" in shown.out
    assert "started" not in shown.err
    assert Ledger(study.folder).path.read_bytes() == before


def test_a_run_that_diverges_is_a_result(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base.yaml"
    base.write_text((ROOT / "configs" / "tiny_llama.yaml").read_text().replace("lr: 3e-3", "lr: 1e30"))
    overrides = [f"data.path={prepared}", "model.vocab_size=512", "log.console=false", "guard.stop_after=3"]
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity"}
    path = write_study(tmp_path, prepared, base=str(base), overrides=overrides, arms=arms)
    assert main(["lab", "run", str(path), "--at-once", "2"]) == 0
    entries = Ledger(loaded(path).folder).read()
    assert [entry.status for entry in entries] == ["diverged"] * 2
    assert all("not finite" in entry.reason for entry in entries)
    assert all(json.loads(json.dumps(entry.found))["skipped_steps"] >= 0 for entry in entries)
    assert "2 diverged" in capsys.readouterr().out
