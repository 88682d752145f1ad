"""What docs/determinism.md says, as far as one machine can show it. Where other tests show it the page names them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import VOCABULARY
from ..distributed import ROOT, environment
from ..killing.harness import Yard
from ..killing.plans import CASES, Case
from ..killing.state import contents, differing, named_checkpoint, records


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Yard]:
    with Yard(prepared, VOCABULARY, tmp_path_factory.mktemp("yard")) as yard:
        yield yard


_PLAIN = Case("one rank, fp32", 1, ("train.precision=fp32", "parallel.zero_stage=0"))
_DROPPED = Case("one rank, fp32, dropout", 1, (*_PLAIN.overrides, "model.dropout=0.1"))


def _run(yard: Yard, tmp_path: Path, case: Case, *overrides: str) -> Path:
    run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    ended = yard.launch(Case(case.name, case.ranks, (*case.overrides, *overrides)), run)
    assert not any(ended.codes), ended
    return run


def _state(run: Path) -> dict[str, Any]:
    return contents(run / "checkpoints" / str(named_checkpoint(run)))


def _curve(run: Path, *names: str) -> list[tuple[float, ...]]:
    names = names or ("loss", "grad_norm")
    return [tuple(record[name] for name in names) for record in records(run) if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4], CASES[6]], ids=lambda case: case.name)
def test_a_rerun_is_the_same_bit_for_bit(yard: Yard, tmp_path: Path, case: Case) -> None:
    first, second = _run(yard, tmp_path, case), _run(yard, tmp_path, case)
    assert records(first) == records(second)
    assert not list(differing(_state(first), _state(second)))


@pytest.mark.slow
def test_another_seed_is_another_run_with_the_same_evaluation(yard: Yard, tmp_path: Path) -> None:
    one, other = _run(yard, tmp_path, _PLAIN), _run(yard, tmp_path, _PLAIN, "train.seed=1")
    assert all(a != b for a, b in zip(_curve(one), _curve(other), strict=True))
    indices = [{path.name: path.read_bytes() for path in run.glob("index/*-validation-*/*/*.npy")} for run in (one, other)]
    assert len(indices[0]) == 3
    assert indices[0] == indices[1], "the order of evaluation is of no seed"
    names = [{path.name for path in run.glob("index/*-train-*/*")} for run in (one, other)]
    assert names[0] != names[1]


@pytest.mark.slow
def test_evaluations_saves_and_records_change_no_step(yard: Yard, tmp_path: Path) -> None:
    """With dropout: none of them draws from the generators that a step draws from."""
    often = _run(yard, tmp_path, _DROPPED, "evaluate.interval=1", "checkpoint.interval=1", "train.replica_audit=1")
    never = ["evaluate.interval=0", "checkpoint.interval=0", "checkpoint.background=false", "train.replica_audit=0"]
    seldom = _run(yard, tmp_path, _DROPPED, *never, "log.norm_cost=true")
    assert _curve(often) == _curve(seldom)
    assert not list(differing(_state(often)["rank-00000.safetensors"], _state(seldom)["rank-00000.safetensors"]))


@pytest.mark.slow
def test_another_micro_batch_is_the_same_up_to_rounding(yard: Yard, tmp_path: Path) -> None:
    whole, quarter = (_run(yard, tmp_path, _PLAIN, f"train.micro_batch_size={size}") for size in (4, 1))
    for (loss, norm), (other_loss, other_norm) in zip(_curve(whole), _curve(quarter), strict=True):
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert other_norm == pytest.approx(norm, rel=1e-4)
    assert _curve(whole) != _curve(quarter), "if they were equal the page would promise more"


@pytest.mark.slow
def test_another_number_of_threads_is_the_same_up_to_rounding(tmp_path: Path, prepared: Path) -> None:
    curves = []
    for threads in (1, 2):
        run = tmp_path / str(threads)
        given = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", "train.steps=12"]
        command = [sys.executable, "-m", "ibnorm_megatron.train", "configs/tiny_llama.yaml", *given, "log.console=false"]
        world = {name: value for name, value in environment().items() if name not in ("RANK", "WORLD_SIZE")}
        done = subprocess.run(command, cwd=ROOT, env={**world, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        curves.append(_curve(run))
    for one, two in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    assert len(curves[0]) == 12


@pytest.mark.slow
def test_initial_weights_are_those_of_one_process_in_every_layout(yard: Yard, tmp_path: Path) -> None:
    """A learning rate of nearly nothing, and the first step's loss: in fp32 it is that of the same weights and samples."""
    layouts = {
        "one": (1, ["parallel.zero_stage=0"]),
        "tensor": (2, ["parallel.tensor=2", "parallel.sequence=true"]),
        "data": (2, ["parallel.zero_stage=3"]),
        "context": (2, ["parallel.context=2"]),
    }
    found = {}
    for name, (ranks, overrides) in layouts.items():
        run = _run(yard, tmp_path, Case(name, ranks, ("train.precision=fp32", *overrides)), "train.steps=1")
        found[name] = _curve(run, "loss", "tokens")[0]
    for name, (loss, tokens) in found.items():
        assert loss == pytest.approx(found["one"][0], rel=1e-6), name
        assert tokens == found["one"][1]


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "determinism.md").read_text())
    assert len(named) > 12
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
