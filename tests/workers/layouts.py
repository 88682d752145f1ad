"""Trains a list of layouts one after another in one process group and saves losses, gradients and weights of each.

``torchrun ... -m tests.workers.layouts CASES.json OUT``: CASES maps a name to overrides; OUT/NAME.pt is written by rank 0.
Gradients and weights are logical tensors, gathered over the tensor-parallel group.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.parallel import engine as engines
from ibnorm_megatron.parallel.engine import Engine
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.parallel.sharding import Sharding, gather_logical
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.base import Callback
from ibnorm_megatron.train.callbacks.norms import NormSteps
from ibnorm_megatron.train.run import build_trainer

#: In a case's overrides: leave partial gradients as they are, so that the test can see what it would have missed.
WITHOUT_SUM = "without-sum"

#: In a case's overrides, with a name: start from the logical weights that this earlier case ended with.
FROM = "from="


@contextmanager
def _mistaken(wrong: bool) -> Iterator[None]:
    right = engines.sum_partial_gradients
    if wrong:
        engines.sum_partial_gradients = lambda module, group: []
    try:
        yield
    finally:
        engines.sum_partial_gradients = right


def main() -> None:
    quiet()
    cases: dict[str, list[str]] = json.loads(Path(sys.argv[1]).read_text())
    out, world = Path(sys.argv[2]), World.from_environment()
    with process_group(world):
        for name, overrides in cases.items():
            ours = [o for o in overrides if o == WITHOUT_SUM or o.startswith(FROM)]
            config = load_config(overrides[0], [o for o in overrides[1:] if o not in ours], world_size=world.size)
            before = [torch.load(out / f"{o.removeprefix(FROM)}.pt", weights_only=True) for o in ours if o.startswith(FROM)]
            with model_parallel(config.parallel, config.train.seed) as groups, _mistaken(WITHOUT_SUM in ours):
                result = _train(config, groups, before[0]["weights"] if before else None)
            if world.rank == 0:
                torch.save(result, out / f"{name}.pt")
            dist.barrier()


def _train(config: Config, groups: Groups, weights: dict[str, torch.Tensor] | None) -> dict[str, Any]:
    def prepare(module: nn.Module) -> None:
        _disturb_norms(module, config, groups)
        if weights:
            _start_from(weights, module, config, groups)

    trainer = build_trainer(config, read_prepared(config.data), groups, prepare_module=prepare)
    recorder = _Recorder()
    trainer.callbacks = [NormSteps(), recorder]
    gradients: dict[str, torch.Tensor] = {}
    step = trainer.engine.step

    def first_step_kept(*judge: Any) -> Any:
        if not gradients:
            gradients.update(_logical_gradients(trainer.engine, config, groups))
        return step(*judge)

    trainer.engine.step = first_step_kept  # type: ignore[method-assign]
    trainer.run()
    result = {
        "losses": [record["loss"] for record in recorder.records],
        "norms": [record["grad_norm"] for record in recorder.records],
        "gradients": gradients,
        "weights": _logical_weights(trainer.engine, config, groups),
        "replica_spread": _replica_spread(trainer.engine, groups),
    }
    trainer.engine.close()
    return result


class _Recorder(Callback):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_record(self, trainer: Any, record: dict[str, Any]) -> None:
        self.records.append(record)


def _disturb_norms(module: nn.Module, config: Config, groups: Groups) -> None:
    """Gains of exactly 1 would hide a gain that is applied twice or to the wrong channel."""
    with torch.no_grad():
        for site, norm in norms_of(module).items():
            generator = torch.Generator().manual_seed(len(str(site)) + 31 * (site.layer or 0))
            for parameter in norm.parameters():
                sharding = Sharding.of(parameter, config.parallel.tensor, config.model.vocab_size)
                noise = sharding.take(
                    torch.randn(sharding.shape, generator=generator), groups.tensor_rank, config.parallel.tensor
                )
                parameter.add_(noise.to(parameter), alpha=0.1)


def _start_from(weights: dict[str, torch.Tensor], module: nn.Module, config: Config, groups: Groups) -> None:
    with torch.no_grad():
        for name, parameter in module.logical_parameters().items():
            sharding = Sharding.of(parameter, config.parallel.tensor, config.model.vocab_size)
            parameter.copy_(sharding.take(weights[name], groups.tensor_rank, config.parallel.tensor))


def _logical_weights(engine: Engine, config: Config, groups: Groups) -> dict[str, torch.Tensor]:
    return gather_logical(engine.module.logical_parameters(), engine.weight, groups, config.model.vocab_size)


def _logical_gradients(engine: Engine, config: Config, groups: Groups) -> dict[str, torch.Tensor]:
    return gather_logical(engine.module.logical_parameters(), engine.gradient, groups, config.model.vocab_size)


def _replica_spread(engine: Engine, groups: Groups) -> float:
    """Largest difference over the tensor ranks of any weight that they all hold."""
    spread = 0.0
    for parameter in engine.module.parameters():
        if not getattr(parameter, "tensor_model_parallel", False):
            high = engine.weight(parameter)
            low = high.clone()
            dist.all_reduce(high, op=dist.ReduceOp.MAX, group=groups.tensor)
            dist.all_reduce(low, op=dist.ReduceOp.MIN, group=groups.tensor)
            spread = max(spread, float((high - low).abs().max()))
    return spread


if __name__ == "__main__":
    main()
