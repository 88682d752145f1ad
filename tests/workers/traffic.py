"""Takes three steps in each of a list of layouts and writes what every rank sent in the third, and what it holds.

``torchrun ... -m tests.workers.traffic CASES.json OUT``: CASES maps a name to a config file and overrides; rank R writes
OUT/NAME-R.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.callbacks.base import Callback, speaks
from ibnorm_megatron.train.callbacks.norms import NormSteps
from ibnorm_megatron.train.callbacks.traffic import CountStep
from ibnorm_megatron.train.run import build_trainer


class _Speaker(Callback):
    """Sends what a callback sends that has something to say, and does nothing else."""

    def say(self) -> float:
        return 1.0


def main() -> None:
    quiet()
    cases: dict[str, list[str]] = json.loads(Path(sys.argv[1]).read_text())
    out, world = Path(sys.argv[2]), World.from_environment()
    with process_group(world):
        for name, (path, *overrides) in cases.items():
            config = load_config(path, overrides, world_size=world.size)
            with model_parallel(config.parallel, config.train.seed) as groups:
                trainer = build_trainer(config, read_prepared(config.data), groups)
                count = CountStep(3)
                trainer.callbacks = [NormSteps(), count, *(_Speaker() for one in trainer.callbacks if speaks(one))]
                trainer.run()
                held = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.engine.module.parameters())
                trainer.engine.close()
                found = {"stage": groups.stage, "held": held, "messages": [asdict(message) for message in count.messages]}
            (out / f"{name}-{world.rank}.json").write_text(json.dumps(found))
            dist.barrier()


if __name__ == "__main__":
    main()
