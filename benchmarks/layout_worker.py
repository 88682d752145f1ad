"""One rank of :mod:`benchmarks.layouts`: steps in one layout, timed, weighed and counted.

``torchrun ... -m benchmarks.layout_worker OUT STEPS CONFIG [OVERRIDES]``; rank R writes OUT-R.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.data.dataset import Batch
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.parallel.counting import CountTraffic
from ibnorm_megatron.parallel.engine import Engine, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.quiet import quiet
from ibnorm_megatron.train.optimizer import build_optimizer
from ibnorm_megatron.train.step import TrainStep

WARM_UP = 2


def main() -> None:
    """Take the steps that the command line says."""
    quiet()
    out, steps = sys.argv[1], int(sys.argv[2])
    world = World.from_environment()
    config = load_config(sys.argv[3], sys.argv[4:], world_size=world.size)
    with process_group(world), model_parallel(config.parallel, config.train.seed) as groups:
        found = measure(config, groups, steps)
    Path(f"{out}-{world.rank}.json").write_text(json.dumps(found))


def measure(config: Config, groups: Groups, steps: int) -> dict[str, object]:
    """Seconds of each step, bytes that the process grew by at most, and what a step more sends, which is not timed."""
    before = _resident()
    module = LanguageModel(config.model, groups, config.train.precision, config.train.seed)
    data = groups.data_size
    engine_config = deepspeed_config(
        config.parallel,
        config.train.precision,
        micro_batch_size=config.train.micro_batch(data),
        micro_batches=config.train.micro_batches(data),
        grad_clip=config.train.grad_clip,
    )
    engine = Engine(module, build_optimizer(module, config.train), groups, engine_config, config.train.grad_clip)
    take_step = TrainStep(config.train, groups, engine)
    batches = _batches(config, groups)
    seconds = []
    for number in range(1, WARM_UP + steps + 1):
        dist.barrier()
        started = time.perf_counter()
        take_step(number, batches)[0].loss()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with CountTraffic(groups) as traffic:
        take_step(WARM_UP + steps + 1, batches)[0].loss()
    engine.close()
    messages = [asdict(message) for message in traffic.messages()]
    return {"stage": groups.stage, "seconds": seconds[WARM_UP:], "grown": peak - before, "messages": messages}


def _batches(config: Config, groups: Groups) -> list[Batch]:
    """This data rank's micro-batches of one step, of random tokens."""
    train = config.train
    micro, length = train.micro_batch(groups.data_size), train.sequence_length
    generator = torch.Generator().manual_seed(groups.data_rank)

    def batch() -> Batch:
        tokens = torch.randint(config.model.vocab_size, (micro, length + 1), generator=generator)
        positions = torch.arange(length).expand(micro, length).contiguous()
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), torch.ones(micro, length), positions)

    return [batch() for _ in range(train.micro_batches(groups.data_size))]


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
