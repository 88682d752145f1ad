"""What runs take: by formula, by a stated speed, and measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ibnorm_megatron.config import load_config
from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.lab import costs
from ibnorm_megatron.lab.design import expected
from ibnorm_megatron.lab.study import load_study

from ..distributed import ROOT
from .studies import study, write


def test_a_branch_costs_its_decay_and_its_end_is_all_tokens(tmp_path: Path) -> None:
    asked = study(tmp_path)
    speeds = costs.stated_speeds(asked, 1e9)
    branch = next(trial for trial in expected(asked) if trial.trunk is not None)
    recipe, found = asked.recipes[branch.size], costs.cost(asked, branch, speeds)
    assert found.steps == recipe.steps(5) - recipe.decay_begins(5) == pytest.approx(0.2 * recipe.steps(5), abs=1)
    assert found.tokens == found.steps * recipe.batch_tokens
    assert found.flops == found.tokens * asked.run_config(branch).model.flops_per_token(32) < asked.flops(branch)
    assert found.seconds == pytest.approx(found.flops / 1e9 + costs.STATED_OVERHEAD)
    trunk = asked.trunk(branch)
    assert trunk is not None and costs.cost(asked, trunk, speeds).flops == asked.flops(trunk)


def test_makespan() -> None:
    assert costs.makespan([3, 1, 1, 1], 1) == 6
    assert costs.makespan([3, 1, 1, 1], 2) == 3
    assert costs.makespan([1, 1, 1, 3], 2) == 4
    assert costs.makespan([], 3) == 0


def test_memory_grows_with_what_is_held(tmp_path: Path) -> None:
    write(tmp_path)

    def held(*overrides: str) -> int:
        return costs.memory_of(load_config(tmp_path / "base.yaml", overrides)) - costs.PROCESS_BYTES

    own = held()
    assert held("train.micro_batch_size=4") < own
    assert held("model.num_layers=4") > own and held("model.vocab_size=4096") > own
    weights = ["model.hidden_size=1024", "model.ffn_hidden_size=2752", "train.micro_batch_size=1"]
    parameters = sum(load_config(tmp_path / "base.yaml", weights).model.num_params().values())
    # Weights, their float32 copy, two moments, gradients and their flat copy; in 16 bits the last are of 2, 2 and 4 bytes.
    assert held(*weights) == pytest.approx(24 * parameters, rel=0.1)
    assert held(*weights, "train.precision=bf16") == pytest.approx(22 * parameters, rel=0.1)


@pytest.mark.slow
def test_memory_by_formula_is_near_what_a_run_holds(tmp_path: Path, prepared: Path) -> None:
    write(tmp_path, base={"data": {"path": str(prepared)}})
    shape = ["model.num_layers=3", "model.hidden_size=128", "model.ffn_hidden_size=352", "model.max_sequence_length=128"]
    batch = ["train.sequence_length=128", "train.global_batch_size=128", "train.micro_batch_size=128", "train.steps=2"]
    overrides = [*shape, *batch, "model.vocab_size=2048", "evaluate.batches=1", f"run.dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "ibnorm_megatron.train", str(tmp_path / "base.yaml"), *overrides]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    measured = json.loads((tmp_path / "run" / "summary.json").read_text())["peak_memory_bytes"]
    formula = costs.memory_of(load_config(tmp_path / "base.yaml", overrides))
    assert measured > 2 * costs.PROCESS_BYTES  # it is the model that is measured, not the libraries
    assert formula == pytest.approx(measured, rel=0.25)


@pytest.mark.slow
def test_steps_are_measured_once_and_kept(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"s": {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "ffn_hidden_size": 88}, "m": ...}
    arms = {"layernorm": "layernorm", "identity": "ibnorm_identity"}
    changes = {"sizes": sizes, "arms": arms, "allow": ["one_size"]}
    asked = load_study(write(tmp_path, changes, {"data": {"path": str(prepared)}}))
    found = costs.calibrate(asked, at_once=2)
    assert set(found) == {("layernorm", "s"), ("identity", "s")}
    for speed in found.values():
        assert 0 < speed.step_seconds < 5 and 1 < speed.overhead_seconds < 300
        assert speed.peak_bytes == pytest.approx(costs.PROCESS_BYTES, rel=0.5)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(costs, "_measure", never)
    assert costs.calibrate(asked, at_once=2) == found
    (tmp_path / "out" / "calibration.json").write_text("{")
    with pytest.raises(AssertionError, match="measured again"):
        costs.calibrate(asked, at_once=2)


def test_arms_at_other_sizes_take_the_ratio_at_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {("layernorm", "s"): 1.0, ("layernorm", "m"): 4.0, ("rmsnorm", "m"): 3.0, ("identity", "m"): 6.0}
    asked = study(tmp_path, arms={"layernorm": "layernorm", "rmsnorm": "rmsnorm", "identity": "ibnorm_identity"})

    def measured(study: object, at_once: int, pair: tuple[str, str], number: int) -> costs.Speed:
        return costs.Speed(seconds[pair], 10.0, 1000)

    monkeypatch.setattr(costs, "_measure", measured)
    asked.folder.mkdir()
    found = costs.calibrate(asked, at_once=1)
    assert {pair: speed.step_seconds for pair, speed in found.items()} == {
        **seconds, ("rmsnorm", "s"): 0.75, ("identity", "s"): 1.5
    }  # fmt: skip


def test_a_run_that_cannot_be_measured_is_said(tmp_path: Path) -> None:
    code = "import sys; print('error: no such thing.'); sys.exit(3)"
    path = write(tmp_path, {"launcher": {"command": ["{python}", "-c", code, "{config}"]}})
    with pytest.raises(RunFailure, match=r"exit code 3, and its last line is: error: no such thing\..*--no-calibrate"):
        costs.calibrate(load_study(path), at_once=1)
