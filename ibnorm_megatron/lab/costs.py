"""What runs take: FLOPs and memory by formula, seconds by a measured step or by a stated speed. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from subprocess import PIPE, STDOUT, run
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..errors import Problem, RunFailure
from ..estimate.memory import PROCESS_BYTES, memory
from ..files import hash_text, write_json, write_text
from ..train.run_folder import RunFolder
from .trials import Trial

if TYPE_CHECKING:
    from .study import Study

#: FLOP/s of a run where nobody measured them: a guess at one CPU core and a small model, for the order of magnitude only.
STATED_SPEED = 2e10

#: Seconds of a run's start and end where nobody measured them: imports, the model, the index of samples, the last checkpoint.
STATED_OVERHEAD = 12.0

#: Steps of a measured run. The first are slower, so their median counts.
_STEPS = 12

_CACHE = "calibration.json"


@dataclass(frozen=True)
class Speed:
    """What was measured of one arm at one size, or follows from what was.

    Attributes:
        step_seconds: of one step.
        overhead_seconds: of a run, beside its steps.
        peak_bytes: of one process; None where only the formula says.
    """

    step_seconds: float
    overhead_seconds: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Cost:
    """Of one trial: what it computes itself, so of a branch the steps after its trunk's."""

    steps: int
    tokens: int
    flops: float
    seconds: float
    memory: int


Speeds = Mapping[tuple[str, str], Speed]


def own_steps(study: Study, trial: Trial) -> int:
    """Steps that a trial trains itself."""
    recipe = study.recipes[trial.size]
    shared = recipe.decay_begins(trial.horizon) if trial.trunk is not None else 0
    return recipe.steps(trial.horizon) - shared


def cost(study: Study, trial: Trial, speeds: Speeds) -> Cost:
    """What a trial takes."""
    steps, speed = own_steps(study, trial), speeds[trial.arm, trial.size]
    tokens = steps * study.recipes[trial.size].batch_tokens
    seconds = steps * speed.step_seconds + speed.overhead_seconds
    memory = speed.peak_bytes or memory_of(study.run_config(trial))
    return Cost(steps, tokens, float(tokens * study.flops_per_token(trial.size)), seconds, memory)


def stated_speeds(study: Study, flops_per_second: float = STATED_SPEED) -> Speeds:
    """Speeds of all arms and sizes where nobody measures: so many model FLOPs a second, and no norm slower than another."""
    seconds = {
        size: recipe.batch_tokens * study.flops_per_token(size) / flops_per_second for size, recipe in study.recipes.items()
    }
    return {(arm, size): Speed(each, STATED_OVERHEAD) for arm in study.config.arms for size, each in seconds.items()}


def memory_of(config: Config, *, processes: int = 1) -> int:
    """Bytes that one process of a run holds at most on a CPU, by formula: itself, and its tensors."""
    world = max(processes, config.parallel.model_parallel)
    return PROCESS_BYTES + memory(config, world, "cpu").peak


def calibrate(study: Study, at_once: int) -> Speeds:
    """Measure steps: the baseline at every size, every other arm at the largest, ``at_once`` runs side by side as in a study.

    An arm's time at another size is the baseline's there times the ratio at the largest. What was measured is kept in the
    study's folder, and not measured again on this machine.

    Raises:
        RunFailure: a run failed, and the sentence holds the last line that it printed; or the study's folder cannot be written.
    """
    try:
        return _calibrated(study, at_once)
    except OSError as error:
        why, mend = f"it cannot be written ({error.strerror})", "mend that, give another dir, or plan with --no-calibrate"
        raise RunFailure(Problem("the study's folder", str(error.filename or study.folder), why, mend)) from None


def _calibrated(study: Study, at_once: int) -> Speeds:
    baseline, largest = study.config.baseline, study.largest_size
    pairs = [*((baseline, size) for size in study.config.sizes), *((a, largest) for a in study.config.arms if a != baseline)]
    cache = study.folder / _CACHE
    known = _read(cache)
    keys = {pair: _key(study, pair, at_once) for pair in pairs}
    missing = [pair for pair in pairs if keys[pair] not in known]
    with ThreadPoolExecutor(at_once) as pool:
        found = pool.map(partial(_measure, study, at_once), missing, range(len(missing)))
        for pair, speed in zip(missing, found, strict=True):
            known[keys[pair]] = speed
    if missing:
        write_json(cache, {key: asdict(speed) for key, speed in known.items()})
    measured = {pair: known[keys[pair]] for pair in pairs}
    overhead = mean(speed.overhead_seconds for speed in measured.values())
    return {(arm, size): _derived(measured, arm, size, baseline, largest, overhead) for arm in study.config.arms
            for size in study.config.sizes}  # fmt: skip


def _derived(measured: Speeds, arm: str, size: str, baseline: str, largest: str, overhead: float) -> Speed:
    """An arm's speed at a size; the overhead is the mean over all, since it is mostly imports."""
    if (arm, size) in measured:
        return replace(measured[arm, size], overhead_seconds=overhead)
    ratio = measured[arm, largest].step_seconds / measured[baseline, largest].step_seconds
    return Speed(measured[baseline, size].step_seconds * ratio, overhead, measured[baseline, size].peak_bytes)


def _trial(study: Study, pair: tuple[str, str]) -> Trial:
    arm, size = pair
    return Trial("tune", arm, size, study.config.seeds[0], 1e-4, None, max(study.config.horizons))


def _config(study: Study, pair: tuple[str, str]) -> Config:
    """A few steps of a run as it will be, into a folder of its own."""
    config = study.run_config(_trial(study, pair))
    folder = study.folder / "calibration" / "-".join(pair)
    updates: dict[str, dict[str, Any]] = {
        "train": {"steps": _STEPS, "warmup_fraction": 0.0},
        "run": {"dir": str(folder), "resume": "never"},
        "checkpoint": {"interval": 0},
        "data": {"index_cache": config.data.index_cache or str(study.folder / "index")},
        "log": {"wandb": "off", "tensorboard": False, "norm_cost": False, "interval": 1},
    }
    return config.model_copy(update={room: getattr(config, room).model_copy(update=each) for room, each in updates.items()})


def _key(study: Study, pair: tuple[str, str], at_once: int) -> str:
    """Of all that a step's time depends on: the config, the command, and the machine."""
    cores = os.environ.get("OMP_NUM_THREADS"), os.cpu_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    machine = platform.node(), platform.machine(), *cores
    return hash_text(json.dumps([_config(study, pair).to_dict(), study.config.launcher.command, at_once, machine]))


def _measure(study: Study, at_once: int, pair: tuple[str, str], number: int) -> Speed:
    from shutil import rmtree
    from time import monotonic

    from .launching import command, environment

    config = _config(study, pair)
    folder, file = Path(config.run.dir), study.folder / "calibration" / f"{'-'.join(pair)}.yaml"
    rmtree(folder, ignore_errors=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, config.to_yaml())
    words = command(study.config.launcher.command, config=file, name=folder.name, folder=study.folder)
    began = monotonic()
    own = environment(os.environ, slot=number % at_once, at_once=at_once)
    try:
        done = run(words, stdout=PIPE, stderr=STDOUT, text=True, errors="replace", env=own)  # noqa: S603 (no shell)
    except (OSError, ValueError) as error:
        why = f"it cannot be started ({getattr(error, 'strerror', None) or error})"
        raise RunFailure(Problem("launcher.command", words[0], why, "mend that, or plan with --no-calibrate")) from None
    wall = monotonic() - began
    summary = RunFolder(folder).read_summary() or {}
    if done.returncode or "step_seconds" not in summary:
        said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        why = f"a few steps of it failed with exit code {done.returncode}, and its last line is: {said}"
        raise RunFailure(Problem("the run", str(file), why, "mend that, or plan with --no-calibrate"))
    rmtree(folder, ignore_errors=True)
    step = float(summary["step_seconds"])
    return Speed(step, max(0.0, wall - _STEPS * step), int(summary["peak_memory_bytes"]))


def _read(cache: Path) -> dict[str, Speed]:
    """What was measured before; a cache that cannot be read is none."""
    try:
        return {key: Speed(**speed) for key, speed in json.loads(cache.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """Seconds until the last of some runs has ended, started in this order wherever one of ``at_once`` places is free."""
    free = [0.0] * max(1, min(at_once, len(seconds)))
    for each in seconds:
        first = free.index(min(free))
        free[first] += each
    return max(free)
