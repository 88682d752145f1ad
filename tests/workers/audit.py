"""Trains layouts whose weights are damaged on one rank after the second step, and says what the replica audit said.

``torchrun ... -m tests.workers.audit CASES.json OUT.json``: a case is the weight to damage, a config, overrides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.errors import RunFailure
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.audit import ReplicaAudit
from ibnorm_megatron.train.callbacks.base import Callback
from ibnorm_megatron.train.run import build_trainer


class _Damage(Callback):
    """One bit of the last element of a weight, on the last rank only, after step 2."""

    def __init__(self, weight: str) -> None:
        self._weight = weight

    def after_step(self, trainer: Any) -> None:
        parameter = trainer.engine.module.logical_parameters().get(self._weight)
        if trainer.state.step == 2 and dist.get_rank() == dist.get_world_size() - 1 and parameter is not None:
            held = getattr(parameter, "ds_tensor", parameter).detach().view(-1)
            held[-1:].view(torch.int32).bitwise_xor_(1)


def main() -> None:
    quiet()
    world, said = World.from_environment(), {}
    with process_group(world):
        for name, (weight, *given) in json.loads(Path(sys.argv[1]).read_text()).items():
            config = load_config(given[0], given[1:], world_size=world.size)
            with model_parallel(config.parallel, config.train.seed) as groups:
                trainer = build_trainer(config, read_prepared(config.data), groups)
                trainer.callbacks = [_Damage(weight), ReplicaAudit(config.train.replica_audit)]
                try:
                    trainer.run()
                    outcome = "nothing"
                except RunFailure as error:
                    outcome = str(error)
                trainer.engine.close()
            of_ranks: list[Any] = [None] * world.size
            dist.all_gather_object(of_ranks, (outcome, trainer.state.step))
            said[name] = of_ranks
    if world.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
