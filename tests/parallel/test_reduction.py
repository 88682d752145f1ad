"""How DeepSpeed reduces gradients under our config: the same numbers as by its defaults, and no step of what is no number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibnorm_megatron.parallel import cpu_compat
from ibnorm_megatron.parallel.config import Layout, Precision
from ibnorm_megatron.parallel.engine import Engine, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group

DEFAULTS = {"contiguous_gradients": True, "reduce_bucket_size": 500_000}


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[Groups]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        yield groups


class _Model(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).to(dtype)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.layers(x.to(self.layers[0].weight.dtype)).float().square().mean() * scale


def _engine(groups: Groups, precision: Precision, layout: Layout, micro_batches: int = 1) -> Engine:
    module = _Model({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    config = deepspeed_config(layout, precision, micro_batch_size=4, micro_batches=micro_batches, grad_clip=1.0)
    return Engine(module, torch.optim.AdamW(module.parameters(), lr=0.1), groups, config, 1.0)


def _step(engine: Engine, scales: list[float], seed: int = 1) -> Any:
    x = torch.randn(len(scales), 4, 8, generator=torch.Generator().manual_seed(seed))
    batches = [{"x": part, "scale": torch.tensor(scale)} for part, scale in zip(x, scales, strict=True)]
    engine.forward_backward(batches, 1 / len(scales))
    return engine.step()


def _weights(engine: Engine) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in engine.module.parameters()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_weights_are_those_of_deepspeeds_defaults(groups: Groups, precision: Precision, stage: int, micro_batches: int) -> None:
    layouts = [Layout(zero_stage=stage), Layout(zero_stage=stage, deepspeed={"zero_optimization": DEFAULTS})]
    found = []
    for layout in layouts:
        engine = _engine(groups, precision, layout, micro_batches)
        before = _weights(engine)
        norms = [_step(engine, [1.0] * micro_batches, seed).grad_norm for seed in range(3)]
        found.append((norms, _weights(engine)))
        assert not any(map(torch.equal, before, found[-1][1]))
        engine.close()
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_a_gradient_that_is_no_number_skips_the_step(groups: Groups, precision: Precision, stage: int, wrong: float) -> None:
    engine = _engine(groups, precision, Layout(zero_stage=stage), micro_batches=2)
    assert not _step(engine, [1.0, 1.0]).skipped
    before = _weights(engine)
    result = _step(engine, [1.0, wrong])
    assert result.skipped and result.grad_norm == float("inf")
    assert all(map(torch.equal, before, _weights(engine)))
    assert not _step(engine, [1.0, 1.0]).skipped
    after = _weights(engine)
    assert not any(map(torch.equal, before, after)) and all(weight.isfinite().all() for weight in after)
    engine.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_reduction_goes_on_beside_the_backward_pass_on_gpus_only(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def zero(**overrides: Any) -> dict[str, Any]:
        layout = Layout(zero_stage=stage, deepspeed={"zero_optimization": overrides})
        return deepspeed_config(layout, "fp32", micro_batch_size=1, micro_batches=1, grad_clip=1.0)["zero_optimization"]

    for gpu in (True, False):
        monkeypatch.setattr(cpu_compat, "on_gpu", lambda gpu=gpu: gpu)
        sharded = stage in (1, 2)
        assert zero().get("overlap_comm", False) == (gpu and sharded)
        assert zero().get("contiguous_gradients", True) == (gpu or stage != 1)
        assert ("reduce_bucket_size" in zero()) == (sharded and not gpu)
    assert zero(reduce_bucket_size=7)["reduce_bucket_size"] == 7
