"""Two hosts, or the reason why there are none; the tiny run that they train, and its curve on one host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import VOCABULARY
from ..distributed import run_ranks
from .hosts import Hosts, Missing, two_hosts

STEPS = 12


def arguments(data: Path, run: Path, *overrides: str) -> list[str]:
    """A tiny LLaMA: tensor ranks inside a host, data ranks across."""
    sizes = [f"model.vocab_size={VOCABULARY}", f"train.steps={STEPS}", "log.console=false", "log.telemetry=0"]
    layout = ["parallel.tensor=2", "parallel.sequence=true"]
    return ["configs/tiny_llama.yaml", f"data.path={data}", f"run.dir={run}", *sizes, *layout, *overrides]


def losses(run: Path) -> dict[int, float]:
    """The loss of every step that a run recorded."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts, or a skipped test that says what is missing."""
    try:
        with two_hosts() as made:
            yield made
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def one_host(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the same run and layout on one host."""
    run = tmp_path_factory.mktemp("one") / "run"
    run_ranks(4, "ibnorm_megatron.train", *arguments(prepared, run))
    return losses(run)


def needs_programs(*names: str, package: str) -> None:
    """Skip a test where a program is missing."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"there is no program {name} (Debian: apt-get install {package})")
