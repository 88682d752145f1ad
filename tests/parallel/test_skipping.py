"""A step that is left out changes nothing: weights, moments, counts and the steps after it are those without it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibnorm_megatron.parallel.config import Layout, Precision
from ibnorm_megatron.parallel.engine import Engine, StepResult, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.parallel.skipping import Gate, Judge


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[Groups]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        yield groups


class _Model(nn.Module):
    """A small network whose gradient, or whose loss alone, can be made anything."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)

    def forward(self, x: Tensor, times: Tensor, plus: Tensor) -> Tensor:
        return self.layers(x.to(self.layers[0].weight.dtype)).float().square().mean() * times + plus


def _engine(groups: Groups, precision: Precision, stage: int, micro_batches: int, **layout: Any) -> Engine:
    module = _Model({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision])
    config = deepspeed_config(
        Layout(zero_stage=stage, **layout), precision, micro_batch_size=4, micro_batches=micro_batches, grad_clip=1.0
    )
    return Engine(module, torch.optim.AdamW(module.parameters(), lr=0.1), groups, config, 1.0)


def _backward(engine: Engine, micro_batches: int, seed: int, times: float = 1.0, plus: float = 0.0) -> float:
    """Only the last micro-batch has ``times`` and ``plus``; returns the sum of losses."""
    x = torch.randn(micro_batches, 4, 8, generator=torch.Generator().manual_seed(seed))
    batches = [{"x": part, "times": torch.tensor(1.0), "plus": torch.tensor(0.0)} for part in x]
    batches[-1] |= {"times": torch.tensor(times), "plus": torch.tensor(plus)}
    return float(engine.forward_backward(batches, 1 / micro_batches))


def _step(engine: Engine, micro_batches: int, seed: int, judge: Judge | None = None, **wrong: float) -> StepResult:
    _backward(engine, micro_batches, seed, **wrong)
    return engine.step(judge)


def _everything(engine: Engine) -> list[Tensor]:
    """Weights, masters, moments and Adam's count of steps."""
    held = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    optimizer = getattr(engine.deepspeed.optimizer, "optimizer", engine.deepspeed.optimizer)
    held += [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held += [value for state in optimizer.state.values() for value in state.values()]
    assert any(value.dim() == 0 for value in held), "Adam counts its steps"
    return [value.detach().clone() for value in held]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


LAYOUTS = [
    *itertools.product(["fp32"], [0, 1, 2, 3], [1, 2], [False]),
    *itertools.product(["bf16"], [1, 2, 3], [1, 2], [False]),
    ("fp32", 2, 2, True), ("bf16", 2, 2, True), ("bf16", 3, 2, True), ("bf16", 1, 1, True),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "stage", "micro_batches", "offload"), LAYOUTS)
def test_a_step_left_out_never_was(groups: Groups, precision: Precision, stage: int, micro_batches: int, offload: bool) -> None:
    shown: list[float] = []

    def refuse(norm: Tensor) -> bool:
        shown.append(float(norm))
        return True

    def agree(norm: Tensor) -> bool:
        shown.append(float(norm))
        return False

    skips: list[dict[str, Any]] = [
        {"times": math.inf}, {"times": math.nan}, {"times": math.inf, "judge": agree}, {"times": 1e10, "judge": refuse},
        {"judge": refuse}, {"plus": math.nan, "judge": refuse},
    ]  # fmt: skip
    engine = _engine(groups, precision, stage, micro_batches, offload_optimizer=offload)
    norms = [_step(engine, micro_batches, 1).grad_norm]
    before = _everything(engine)
    for skip in skips:
        result = _step(engine, micro_batches, 2, **skip)
        assert result.skipped and not result.searching, skip
        assert math.isfinite(result.grad_norm) == math.isfinite(skip.get("times", 1.0)), skip
        assert _same(before, _everything(engine)), skip
    assert shown[0] == math.inf
    assert shown[1] > 1e8
    assert shown[2] == shown[3] < 100, "a loss that is not finite may have a gradient like any"
    norms += [_step(engine, micro_batches, seed, judge).grad_norm for seed, judge in ((3, None), (4, agree))]
    assert shown[-1] == norms[-1]
    assert not _same(before, _everything(engine))
    after = _everything(engine)
    engine.close()

    undisturbed = _engine(groups, precision, stage, micro_batches, offload_optimizer=offload)
    assert [_step(undisturbed, micro_batches, seed).grad_norm for seed in (1, 3, 4)] == norms
    assert _same(after, _everything(undisturbed))
    undisturbed.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_discarded_gradient_leaves_no_trace(groups: Groups, stage: int) -> None:
    engine, undisturbed = _engine(groups, "fp32", stage, 2), _engine(groups, "fp32", stage, 2)
    _step(engine, 2, 1)
    counted = (engine.deepspeed.global_steps, engine.deepspeed.skipped_steps, engine.deepspeed.global_samples)
    for times in (1.0, math.nan):
        _backward(engine, 2, 2, times)
        engine.discard()
        assert (engine.deepspeed.global_steps, engine.deepspeed.skipped_steps, engine.deepspeed.global_samples) == counted
    _step(engine, 2, 3)
    for seed in (1, 3):
        _step(undisturbed, 2, seed)
    assert _same(_everything(engine), _everything(undisturbed))
    engine.close()
    undisturbed.close()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_loss_scale_is_sought_by_overflows_alone(groups: Groups, stage: int) -> None:
    """A refused step says nothing of the scale; at its minimum an overflow is skipped, where DeepSpeed would raise an error."""
    block = {"initial_scale_power": 2, "hysteresis": 1, "loss_scale_window": 1000}
    engine = _engine(groups, "fp16", stage, 1, deepspeed={"fp16": block})
    scaler = engine.deepspeed.optimizer.loss_scaler
    shown: list[float] = []

    def refuse(norm: Tensor) -> bool:
        shown.append(float(norm))
        return True

    assert not _step(engine, 1, 1).skipped
    plain = _step(engine, 1, 2, lambda norm: shown.append(float(norm)) or False)
    assert shown == [float(plain.grad_norm)], "the judge sees the norm without the scale"
    before = _everything(engine)
    result = _step(engine, 1, 3, refuse)
    assert (result.skipped, result.searching, scaler.cur_scale) == (True, False, 4)
    assert float(result.grad_norm) == shown[-1] < 100
    found = []
    for _ in range(4):
        result = _step(engine, 1, 3, refuse, times=math.inf)
        found.append((result.skipped, result.searching, scaler.cur_scale))
        assert shown[-1] == math.inf == result.grad_norm
    assert found == [(True, True, 2), (True, True, 1), (True, False, 1), (True, False, 1)]
    _backward(engine, 1, 3, math.inf)
    scaler.cur_scale = 4
    engine.discard()
    assert scaler.cur_scale == 4
    assert _same(before, _everything(engine))
    assert not _step(engine, 1, 4).skipped
    engine.close()


def test_a_deepspeed_that_changed_is_noticed(groups: Groups) -> None:
    class Unknown:
        pass

    with pytest.raises(AssertionError, match="nobody has looked at how DeepSpeed's Unknown skips"):
        Gate(Unknown())
    engine = _engine(groups, "fp32", 1, 1)
    gate = Gate(engine.deepspeed.optimizer)
    with pytest.raises(AssertionError, match="did not compute the gradient's norm"), gate.watched(lambda norm: True):
        pass
    engine.close()
