"""Trained runs to ask: two norms, two seeds of one of them, written by two tensor ranks; opened by one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import VOCABULARY
from ..distributed import run_ranks

#: With a norm inside a linear layer, on queries and keys, a lambda that depends on the step, and a padded vocabulary.
SUB = ["model.norm={kind: ibnorm_tanh, strength: scheduled, lambda: 0.5}", "model.norm_placement=sub", "model.qk_norm=per_head"]


def case(prepared: Path, run: Path, *overrides: str) -> dict[str, object]:
    """A run of a few steps."""
    given = [
        f"data.path={prepared}",
        f"run.dir={run}",
        f"model.vocab_size={VOCABULARY}",
        "train.steps=30",
        "evaluate.batches=2",
    ]
    return {"config": "configs/tiny_llama.yaml", "overrides": [*given, "log.console=false", *overrides]}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, Path]:
    """By name, folders of runs that have ended."""
    folder = tmp_path_factory.mktemp("asked")
    found = {name: folder / name for name in ("layernorm", "layernorm-2", "sub", "batchnorm")}
    cases = [
        case(prepared, found["layernorm"], "model.norm=layernorm", "train.seed=1", "parallel.tensor=2", "model.dropout=0.1"),
        case(prepared, found["layernorm-2"], "model.norm=layernorm", "train.seed=2", "parallel.tensor=2"),
        case(prepared, found["sub"], *SUB, "train.seed=1", "parallel.tensor=2", "parallel.sequence=true"),
        case(prepared, found["batchnorm"], "model.norm=batchnorm", "train.seed=2", "parallel.pipeline=2"),
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, "tests.workers.resume", folder / "cases.json", timeout=600)
    return found
