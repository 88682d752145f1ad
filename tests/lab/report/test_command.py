"""``ibnorm lab report`` as somebody types it: a whole study by its own design, whose runs are only written down."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest

from ibnorm_megatron.cli import main
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.gathering import current
from ibnorm_megatron.lab.ledger import Ledger
from ibnorm_megatron.lab.matching import facts
from ibnorm_megatron.lab.study import Study, load_study
from ibnorm_megatron.lab.trials import Trial

from ..entries import CARD, entry
from ..running import SIZE, loaded, write_study
from . import example
from .test_page import read

LARGER = {**SIZE, "hidden_size": 32, "ffn_hidden_size": 64}


def _write(folder: Path, data: Path) -> Path:
    tuning = {"learning_rates": [0.001, 0.002, 0.004], "further_trials": 2}
    arms = {"layernorm": "layernorm", "log": {"norm": "ibnorm_log", "lambdas": [1.0, 2.0]}, "identity": "ibnorm_identity"}
    sizes = {"s": SIZE, "m": LARGER}
    return write_study(folder, data, arms=arms, sizes=sizes, horizons=[5, 20], seeds=[1, 2, 3], tuning=tuning, allow=["edge"])


def _run(study: Study, trial: Trial) -> None:
    """One line of the ledger: the surface, a bend of the learning rate, and a noise that the trial's name decides."""
    key, tokens = study.key(trial), study.tokens(trial)
    noise = int(hashlib.sha256(study.name(trial).encode()).hexdigest()[:8], 16) / 2**32 - 0.5
    loss = example.true_loss(study.parameters(trial.size), tokens, 1.2 if trial.arm == "log" else 1.0)
    loss += 0.05 * math.log(trial.learning_rate / 0.002) ** 2 + 0.004 * noise
    lost = (trial.stage, trial.arm, trial.size, trial.seed, trial.horizon) == ("main", "log", "m", 3, 5.0)
    Ledger(study.folder).append(
        entry(
            trial,
            key,
            "diverged" if lost else "complete",
            folder=f"runs/{study.name(trial)}",
            loss=None if lost else loss,
            reason="the loss of step 9 is nan." if lost else "",
            parameters=study.parameters(trial.size),
            tokens=9 * 512 if lost else tokens,  # a run that diverged has not seen what it was to see
            flops=study.flops(trial),
            matching=facts(study.run_config(trial).to_dict(), CARD, study.flops(trial)),
        )
    )


def test_a_study_from_its_design_to_its_report(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path, prepared)
    assert main(["lab", "report", str(path)]) == 2
    assert "no run of it as it stands now is in " in capsys.readouterr().err
    study = loaded(path)
    while not (now := due(study, Ledger(study.folder).read())).finished:
        for trial in now.trials:
            _run(study, trial)
    assert main(["lab", "report", str(path), "--out", str(tmp_path / "there")]) == 0
    written = tmp_path / "there" / "report" / "index.html"
    assert capsys.readouterr().out.replace("\n", "").endswith(f"report: {written}")
    found = read(written)
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    sections = found.sections
    entries = Ledger(study.folder).read()
    assert sum(each.startswith("run-") for each in found.ids) == len(entries), "a row a run, and none that is no run's"
    for each in entries:
        assert each.folder in sections["runs"]
    assert "the loss of step 9 is nan." in sections["stability"]
    assert "log" in sections["verdict"] and "identity control" in sections["verdict"]
    assert "diverged" in sections["claims"] and "(1) batch_tokens is given" in sections["method"]
    assert "Not finished" not in sections.get("aside", "")
    levels = {each["arm"]: each["level"] for each in json.loads((written.parent / "analysis.json").read_text())["verdicts"]}
    assert levels["log"] in ("undecided", "better") and levels["identity"] in ("undecided", "equivalent")


def _report(path: Path) -> dict[str, str]:
    """The sections of a report that is made now."""
    assert main(["lab", "report", str(path)]) == 0
    return read(loaded(path).folder / "report" / "index.html").sections


def _tuned(study: Study) -> None:
    """Until an arm's choice is known, or that of all."""
    while not (now := due(study, current(study, Ledger(study.folder).read()))).choices:
        for trial in now.trials:
            _run(study, trial)


def test_a_study_under_way_shows_what_it_has(tmp_path: Path, prepared: Path) -> None:
    path = _write(tmp_path, prepared)
    study = loaded(path)
    _tuned(study)
    sections = _report(path)
    assert "Not finished: 15 of about 57 runs have ended, 0 of 36 of those that are compared." in sections["aside"]
    assert "No arm has a verdict yet" in sections["verdict"] and "What tuning chose" in sections["tuning"]
    assert "interim" in sections["header"] and "2 sizes" in sections["header"] and "3 seeds" in sections["header"]
    for _ in range(2):  # trunks, then what branches off them; and of the next seed the baseline alone
        for trial in due(study, Ledger(study.folder).read()).trials:
            if trial.stage == "main" and (trial.seed == 1 or (trial.seed == 2 and trial.arm == "layernorm")):
                _run(study, trial)
    sections = _report(path)
    assert "31 of about 57 runs have ended, 16 of 36 of those that are compared." in sections["aside"]
    assert "This is an interim look: 16 of 36 ends of training are there yet." in sections["aside"]
    assert "All of it may still change." in sections["aside"] and "lacks" not in sections["aside"]
    assert "ends of training have no loss" not in sections["verdict"]
    path.write_text(path.read_text().replace("baseline: layernorm", "  late: rmsnorm\nbaseline: layernorm"))
    _tuned(loaded(path))
    assert "16 of 48 ends of training are there yet." in _report(path)["aside"]


def test_a_study_that_cannot_go_on_shows_why(tmp_path: Path, prepared: Path) -> None:
    path = _write(tmp_path, prepared)
    overrides = ["allow=[]", "tuning.extensions=0"]
    study = load_study(path, overrides)
    for trial in due(study, []).trials:
        Ledger(study.folder).append(entry(trial, study.key(trial), loss=3 + trial.learning_rate, flops=study.flops(trial)))
    assert main(["lab", "report", str(path), *overrides]) == 0
    sections = read(study.folder / "report" / "index.html").sections
    said = "The study cannot go on: the best learning rate of layernorm is 0.001: it is at the end of the grid"
    assert said in sections["aside"] and "3.0010" in sections["runs"]
    assert "allow=[], tuning.extensions=0" in sections["method"], "what the file does not say"


def test_runs_that_do_not_match_are_said_in_red(tmp_path: Path, prepared: Path) -> None:
    path = _write(tmp_path, prepared)
    study = loaded(path)
    for trial in due(study, []).trials:
        _run(study, trial)
    ledger = Ledger(study.folder).path
    ledger.write_text(ledger.read_text().replace('"initial_weights": "w0"', '"initial_weights": "w1"', 1))
    said = _report(path)["aside"]
    assert said.count("Not matched, so nothing can be concluded:") == 8
    assert "initial_weights of runs/tune-" in said
