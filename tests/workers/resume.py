"""Trains in several layouts in one world, from their beginnings and from checkpoints.

``torchrun ... -m tests.workers.resume CASES.json``: CASES is a list of ``{"config", "overrides", "from", "step", "random"}``,
done in their order. With ``from``, that run folder is copied to the case's run.dir first, to go on from ``step``.
What is left of random-number generators by the cases before is made worse, so that nothing but the checkpoint can put it right;
``random`` seeds them for runs that have to begin alike.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ibnorm_megatron.config import load_config
from ibnorm_megatron.data.prepared import read_prepared
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.run import train
from ibnorm_megatron.train.run_folder import RunFolder, checkpoint_name


def go_back(run: Path, step: int) -> None:
    """Let a run go on from an earlier checkpoint, as its user would."""
    (run / "checkpoints" / "latest").write_text(checkpoint_name(step))
    (run / "summary.json").unlink(missing_ok=True)


def main() -> None:
    quiet()
    world = World.from_environment()
    with process_group(world):
        for number, case in enumerate(json.loads(Path(sys.argv[1]).read_text())):
            config = load_config(case["config"], case["overrides"], world_size=world.size)
            if world.rank == 0:
                if "from" in case:
                    shutil.copytree(case["from"], config.run.dir)
                    go_back(Path(config.run.dir), case["step"])
                with RunFolder(config.run.dir).claim(config.to_yaml()):
                    pass
            dist.barrier()
            with model_parallel(config.parallel, config.train.seed) as groups:
                for seed in (torch.manual_seed, np.random.seed, random.seed):
                    seed(case.get("random", number))  # the same on all ranks: tensor ranks have to draw the same noise
                train(config, read_prepared(config.data), groups)
            dist.barrier()


if __name__ == "__main__":
    main()
