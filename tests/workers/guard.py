"""Trains cases that go wrong and says how each ended, and what was left of it, on every rank.

``torchrun ... -m tests.workers.guard CASES.json OUT.json``: a case is the weight to poison after step 3 (or ""), a config,
overrides.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.random import _get_all_rng_states
from torch import Tensor

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.parallel.replicas import bit_hash
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.base import Callback
from ibnorm_megatron.train.run import build_trainer
from ibnorm_megatron.train.run_card import run_card


def _trained(trainer: Any) -> list[Tensor]:
    """Weights, masters, moments, counts of steps, fp16's scale."""
    engine = trainer.engine.deepspeed
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    held = [getattr(parameter, "ds_tensor", parameter) for parameter in trainer.engine.module.parameters()]
    held += [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held += [value for state in optimizer.state.values() for value in state.values()]
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return [*held, torch.tensor(float(scaler.cur_scale if scaler else 1))]


def _around(trainer: Any) -> list[Tensor]:
    """Random-number states and what norms gather."""
    cpu, _, tracked = _get_all_rng_states()
    return [cpu, *tracked.values(), *trainer.engine.module.buffers()]


def _hash(tensors: list[Tensor]) -> int:
    return sum(int(bit_hash(tensor)) * (2 * place + 1) for place, tensor in enumerate(tensors) if tensor.numel()) % 2**64


class _Watch(Callback):
    """Poisons a weight on the last rank after step 3, and keeps a hash of everything after each step."""

    def __init__(self, weight: str) -> None:
        self._weight = weight
        self.trained: list[int] = []
        self.around: list[int] = []

    def after_step(self, trainer: Any) -> None:
        parameter = trainer.engine.module.logical_parameters().get(self._weight)
        if trainer.state.step == 3 and dist.get_rank() == dist.get_world_size() - 1 and parameter is not None:
            getattr(parameter, "ds_tensor", parameter).detach().view(-1)[0] = torch.nan
        self.trained.append(_hash(_trained(trainer)))
        self.around.append(_hash(_around(trainer)))


def main() -> None:
    quiet()
    world, said = World.from_environment(), {}
    with process_group(world):
        for name, (weight, *given) in json.loads(Path(sys.argv[1]).read_text()).items():
            config = load_config(given[0], given[1:], world_size=world.size)
            prepared = read_prepared(config.data)
            with model_parallel(config.parallel, config.train.seed) as groups, ExitStack() as held:
                trainer = build_trainer(config, prepared, groups)
                if groups.first:
                    held.enter_context(trainer.folder.claim(config.to_yaml()))
                    trainer.folder.begin(run_card(config, prepared, world.size), 0)
                watch = _Watch(weight)
                trainer.callbacks.insert(1, watch)
                try:
                    trainer.run()
                    outcome = ""
                except RunFailure as failure:
                    outcome = str(failure)
                trainer.engine.close()
            own = {"outcome": outcome, "step": trainer.state.step, "trained": watch.trained, "around": watch.around}
            of_ranks: list[Any] = [None] * world.size
            dist.all_gather_object(of_ranks, own)
            said[name] = of_ranks
    if world.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
