"""One rank of :mod:`benchmarks.layouts`: steps in one layout, timed, weighed and counted.

Whoever forks a process to call :func:`work` imports this module before, with all that a run imports.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from ibnorm_megatron.config import Config
from ibnorm_megatron.parallel import cpu_compat
from ibnorm_megatron.parallel.counting import CountTraffic
from ibnorm_megatron.parallel.groups import Groups
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.run import build_engine
from ibnorm_megatron.train.step import TrainStep
from ibnorm_megatron.train.traffic import SPEAKERS
from ibnorm_megatron.verify import warm  # noqa: F401 (what the engine imports late, which would be here in every rank)

from .ranks import as_rank, random_batches

WARM_UP = 2


def work(environment: Mapping[str, str], out: Path, steps: int, path: str, overrides: list[str]) -> None:
    """Take the steps as the rank that the environment says, as a launcher would set it, and write what was found."""
    with as_rank(environment, path, overrides) as (config, groups):
        out.write_text(json.dumps(measure(config, groups, steps)))


def measure(config: Config, groups: Groups, steps: int) -> dict[str, object]:
    """Seconds of each step, bytes that the process (or its GPU memory) grew by at most, and what a step more sends, untimed."""
    before = 0 if cpu_compat.on_gpu() else _resident()
    engine = build_engine(config, groups)
    take_step = TrainStep(config.train, groups, engine, guard=Guard(config.guard))
    says = [0.0] * SPEAKERS  # as a run's callbacks, so that a step sends what a run's does
    batches = random_batches(config, groups)
    seconds = []
    for number in range(1, WARM_UP + steps + 1):
        dist.barrier()
        started = time.perf_counter()
        take_step(number, batches, says)[0].loss()
        seconds.append(time.perf_counter() - started)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if cpu_compat.on_gpu() else host
    with CountTraffic(groups) as traffic:
        take_step(WARM_UP + steps + 1, batches, says)[0].loss()
    engine.close()
    messages = [asdict(message) for message in traffic.messages()]
    return {"stage": groups.stage, "seconds": seconds[WARM_UP:], "grown": peak - before, "messages": messages}


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
