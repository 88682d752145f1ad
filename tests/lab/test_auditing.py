"""Whether the ledger says what the runs' folders say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ibnorm_megatron.lab.auditing import audit
from ibnorm_megatron.lab.design import due
from ibnorm_megatron.lab.matching import facts
from ibnorm_megatron.lab.study import Study
from ibnorm_megatron.lab.trials import Entry

from .entries import CARD, entry
from .running import loaded, pretended


def _recorded(study: Study) -> list[Entry]:
    """An entry for every trial, with the folder that its run would leave."""
    made = []
    for trial in due(study, []).trials:
        folder, config = study.folder / "runs" / study.name(trial), study.run_config(trial)
        card = {**CARD, "tokens": study.tokens(trial)}
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "run_card.json").write_text(json.dumps(card))
        summary = {"status": "complete", "val_loss": 3.5, "tokens": study.tokens(trial)}
        (folder / "summary.json").write_text(json.dumps(summary))
        matching = facts(yaml.safe_load(config.to_yaml()), card, study.flops(trial))
        values = {"loss": 3.5, "tokens": study.tokens(trial), "flops": study.flops(trial), "matching": matching}
        made.append(entry(trial, study.key(trial), folder=f"runs/{study.name(trial)}", **values))
    return made


def test_folders_that_say_what_the_ledger_says(tmp_path: Path, prepared: Path) -> None:
    study = loaded(pretended(tmp_path, prepared))
    entries = _recorded(study)
    found = audit(study, entries)
    assert (found.runs, found.there, found.problems) == (3, 3, ())
    (study.folder / entries[0].folder / "run_card.json").unlink()
    assert audit(study, entries).there == 2, "a folder that is not whole is not counted"


@pytest.mark.parametrize(
    ("file", "path", "value", "field"),
    [
        ("summary.json", ["val_loss"], 3.4, "loss"),
        ("summary.json", ["tokens"], 1, "tokens"),
        ("run_card.json", ["digests", "initial_weights"], "w9", "initial_weights"),
        ("run_card.json", ["data", "hash"], "d9", "data"),
        ("run_card.json", ["tokens"], 512, "flops"),
        ("config.yaml", ["train", "steps"], 7, "steps"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, prepared: Path, file: str, path: list[str], value: object, field: str) -> None:
    study = loaded(pretended(tmp_path, prepared))
    entries = _recorded(study)
    changed = study.folder / entries[1].folder / file
    values = yaml.safe_load(changed.read_text())
    at = values
    for room in path[:-1]:
        at = at[room]
    at[path[-1]] = value
    changed.write_text(json.dumps(values))
    (problem,) = audit(study, entries).problems
    assert problem.where == f"{field} of {entries[1].folder}" and "the ledger has" in problem.why
