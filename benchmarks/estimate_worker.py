"""One rank of :mod:`benchmarks.estimate`: a few steps in one layout, and the most memory that they held.

Whoever forks a process to call :func:`work` imports this module before, with all that a run imports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ibnorm_megatron.config import Config
from ibnorm_megatron.parallel.groups import Groups
from ibnorm_megatron.train.guard import Guard
from ibnorm_megatron.train.run import build_engine
from ibnorm_megatron.train.step import TrainStep
from ibnorm_megatron.train.traffic import SPEAKERS
from ibnorm_megatron.verify import warm  # noqa: F401 (what the engine imports late, which would be here in every rank)

from .memory import most_held, silent_stderr
from .ranks import as_rank, random_batches

#: What the C library's allocator is told before any of this is imported: memory that is given back goes back to the system,
#: so that what is resident is what is held. Without it glibc keeps freed blocks of up to 32 MiB for later.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

#: Overrides that make a config's model next to nothing: what is loaded and set up once is loaded and set up with it.
_SMALL = {"num_layers": None, "vocab_size": 256, "max_sequence_length": 32}

#: AdamW makes its moments in the first step; the second has everything.
STEPS = 2


def work(environment: Mapping[str, str], out: Path, path: str, overrides: list[str], counted: bool) -> None:
    """Take the steps as the rank that the environment says, and write what was found."""
    with as_rank(environment, path, overrides) as (config, groups):
        _steps(_little(config), groups)
        before = _reset()
        found: dict[str, Any] = {"stage": groups.stage}
        if counted:
            with silent_stderr():
                found["counted"] = _counted(config, groups)
        else:
            _steps(config, groups)
        found["resident"] = _status("VmHWM") - before
        out.write_text(json.dumps(found))


def _little(config: Config) -> Config:
    """The config with hardly any model."""
    model, stages = config.model, config.parallel.pipeline
    sizes = {"num_layers": stages, "hidden_size": 32 * model.num_attention_heads, "vocab_size": 128}
    length = {"sequence_length": 4 * config.parallel.tensor * config.parallel.context}
    return config.model_copy(
        update={
            "model": model.model_copy(update={**sizes, "ffn_hidden_size": 16 * config.parallel.tensor}),
            "train": config.train.model_copy(update=length),
        }
    )


def _steps(config: Config, groups: Groups) -> None:
    """Build the model and its engine, take steps, let go of all of it."""
    engine = build_engine(config, groups)
    step = TrainStep(config.train, groups, engine, guard=Guard(config.guard))
    batches = random_batches(config, groups)
    for number in range(1, STEPS + 1):
        step(number, batches, [0.0] * SPEAKERS)[0].loss()
    engine.close()


def _status(name: str) -> int:
    """A line of this process's /proc/self/status, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _reset() -> int:
    """Bytes that are resident now; the kernel's record of the most begins anew."""
    import gc

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _counted(config: Config, groups: Groups) -> int:
    """The most that PyTorch's allocator had given out at once, as its profiler is told of every block."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _steps(config, groups)
    return most_held(profile)
