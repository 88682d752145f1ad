"""Studies to ask for: small shapes, data that costs nothing to make, and a ledger that a formula fills instead of training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import yaml

from ibnorm_megatron.lab.design import Due, due
from ibnorm_megatron.lab.study import Study, load_study
from ibnorm_megatron.lab.trials import Entry, Trial

from ..data.making import documents, make
from ..distributed import ROOT

BASE: dict[str, Any] = {
    "model": {
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "ffn_hidden_size": 176,
        "vocab_size": 512,
        "max_sequence_length": 64,
    },
    "train": {
        "steps": 10,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "precision": "fp32",
        "lr": 3e-3,
    },
    "evaluate": {"batches": 4},
}

STUDY: dict[str, Any] = {
    "name": "test",
    "base": "base.yaml",
    "arms": {
        "layernorm": "layernorm",
        "identity": "ibnorm_identity",
        "rmsnorm": "rmsnorm",
        "log": {"norm": "ibnorm_log", "lambdas": [2, 8]},
        "tanh": {"norm": "ibnorm_tanh", "lambdas": [2, 8]},
    },
    "baseline": "layernorm",
    "control": "identity",
    "sizes": {
        "s": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "ffn_hidden_size": 88},
        "m": {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 176},
    },
    "horizons": [5, 20],
    "seeds": [1, 2, 3],
    "tuning": {"seeds": [7, 8], "learning_rates": [1e-3, 2e-3, 4e-3], "further_trials": 2},
}

#: Validation loss of a trial; None: it diverges.
Loss = Callable[[Trial], float | None]


@cache
def data() -> Path:
    """A prepared folder, made once: some hundred thousand tokens below 512."""
    folder = Path(mkdtemp(prefix="lab-data-")) / "data"
    contents = [[min(token, 511) for token in document] for document in documents(1200)]
    return make(folder, {"text": {"train": [contents], "validation": [contents[:200]]}}, vocabulary=512)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with changes; a field changed to ``...`` is taken out."""
    found = dict(values)
    for name, value in changes.items():
        if value is ...:
            found.pop(name, None)
        elif isinstance(value, dict) and isinstance(found.get(name), dict) and name != "arms":
            found[name] = merged(found[name], value)
        else:
            found[name] = value
    return found


def write(folder: Path, changes: Mapping[str, Any] | None = None, base: Mapping[str, Any] | None = None) -> Path:
    """Write a study and its base config, with changes to both."""
    values = merged(BASE, {"data": {"path": str(data())}, **(base or {})})
    (folder / "base.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    path = folder / "study.yaml"
    path.write_text(json.dumps(merged({**STUDY, "dir": str(folder / "out")}, changes or {})))
    return path


def study(folder: Path, **changes: Any) -> Study:
    """A study that is read."""
    return load_study(write(folder, changes))


def entry(study: Study, trial: Trial, loss: float | None, **changes: Any) -> Entry:
    """What the ledger says of a trial that ended with a loss, or diverged."""
    complete = loss is not None
    found = Entry(
        trial=trial,
        key=study.key(trial),
        folder=f"runs/{study.name(trial)}",
        status="complete" if complete else "diverged",
        reason="" if complete else "the loss is not finite",
        parameters=study.parameters(trial.size),
        tokens=study.tokens(trial) if complete else 0,
        flops=study.flops(trial),
        loss=loss,
        seconds=1.0,
        found={},
        matching={},
        started="",
        ended="",
    )
    return replace(found, **changes)


def simulate(study: Study, loss: Loss, entries: Sequence[Entry] = ()) -> tuple[Due, list[Entry]]:
    """Run a whole study by a formula: what is due ends at once, until nothing is."""
    ledger = list(entries)
    for _ in range(30):
        now = due(study, ledger)
        if not now.trials:
            return now, ledger
        ledger += [entry(study, trial, loss(trial)) for trial in now.trials]
    raise AssertionError("the study does not end")


def shipped() -> list[Path]:
    """The studies that the repository has."""
    return sorted((ROOT / "configs" / "studies").glob("*.yaml"))
