"""What this machine and the launcher must bring for a run: libraries, compilers, GPUs, room on the disk, ranks that can meet.

Looked at before torch is imported, where that is possible: only a machine with GPUs is asked through torch how many.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import Config
from ..devices import has_gpu_driver
from ..errors import Problem, UserError
from .wandb_mode import has_key, key_files, wandb_host

#: Libraries whose insides this program relies on: the oldest version, the first that is too new, and what to install.
LIBRARIES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None, str]] = {
    "torch": ((2, 6), None, "torch>=2.6"),
    "megatron-core": ((0, 16), (0, 17), "megatron-core==0.16.1"),
    "deepspeed": ((0, 19), (0, 20), "deepspeed>=0.19,<0.20"),
}

#: float32 weights and the two moments of AdamW; and how much more than that must be free, for what else is written.
CHECKPOINT_BYTES, _MARGIN = 12, 1.05

#: Numbers that a launcher gives to each process, and what they are where it says nothing.
_NUMBERS = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}

_RELAUNCH = "start it with torchrun, deepspeed or ibnorm train, or set it right"


def launcher_problems(environ: Mapping[str, str] = os.environ) -> Iterator[Problem]:
    """Numbers in the launcher's variables that are none: no rank can say which one it is."""
    for name in _NUMBERS:
        value = environ.get(name, "0")
        if not _is_number(value):
            yield Problem(name, repr(value), "it is no whole number from 0", _RELAUNCH)


def environment_problems(config: Config, world_size: int, environ: Mapping[str, str] = os.environ) -> Iterator[Problem]:
    """What of this machine, or of what the launcher says, cannot run a config.

    Args:
        config: a refused field in it ends the checks that read it, and no others.
        world_size: number of processes.
        environ: what the launcher, and the user's shell, say.
    """
    on_environment: tuple[Callable[..., Iterator[Problem]], ...] = (_ranks, _devices, _compilers, _wandb)
    checks = [_libraries, _disk, _index_cache, *(partial(check, environ) for check in on_environment)]
    for check in checks:
        with suppress(UserError):  # what was refused is reported already
            yield from check(config, world_size)


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 10


def _libraries(config: Config, _: int) -> Iterator[Problem]:
    for name, (oldest, too_new, install) in LIBRARIES.items():
        yield from _version(name, oldest, too_new, install)
    for wanted, name, field in (
        (config.log.tensorboard, "tensorboard", "log.tensorboard is true"),
        (config.log.wandb in ("offline", "online"), "wandb", f"log.wandb is {config.log.wandb}"),
    ):
        if wanted and _installed(name) is None:
            yield Problem(name, "missing", f"it is not installed, and {field}", f"run: pip install {name}, or switch it off")


def _version(name: str, oldest: tuple[int, ...], too_new: tuple[int, ...] | None, install: str) -> Iterator[Problem]:
    found, mend = _installed(name), f"run: pip install '{install}'"
    if found is None:
        yield Problem(name, "missing", "it is not installed", mend)
        return
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[: len(oldest)])
    if numbers < oldest or (too_new is not None and numbers >= too_new):
        wanted = ".".join(map(str, oldest)) + (" or later" if too_new is None else ".*")
        yield Problem(name, found, f"this program was written for {wanted}", mend)


def _installed(name: str) -> str | None:
    """The version of a library, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ranks(environ: Mapping[str, str], config: Config, world_size: int) -> Iterator[Problem]:
    """Ranks that are not of their world, and processes that could not find one another and would wait for ever."""
    given = {name: environ.get(name, "") for name in _NUMBERS}
    if not all(_is_number(value) for value in given.values() if value):
        return  # main has said it
    number = {name: int(value) if value else _NUMBERS[name] for name, value in given.items()}
    for rank, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if given[rank] and given[size] and number[rank] >= number[size]:
            why = f"{size} {number[size]} has ranks 0 to {number[size] - 1}"
            yield Problem(rank, given[rank], why, _RELAUNCH)
    if given["RANK"] and not given["WORLD_SIZE"] and number["RANK"]:
        yield Problem("WORLD_SIZE", "missing", f"RANK is {given['RANK']}, of an unknown number of processes", _RELAUNCH)
    port = environ.get("MASTER_PORT", "")
    if "MASTER_ADDR" in environ and not (_is_number(port) and 0 < int(port) < 65_536):
        why = f"MASTER_ADDR is {environ['MASTER_ADDR']}, and ranks meet at a port from 1 to 65535 there"
        yield Problem("MASTER_PORT", repr(port) if port else "missing", why, _RELAUNCH)
    if "MASTER_ADDR" not in environ and "RANK" in environ and number["WORLD_SIZE"] > 1:
        why = f"{number['WORLD_SIZE']} processes have to meet somewhere"
        yield Problem("MASTER_ADDR", "missing", why, _RELAUNCH)


def _gpus() -> int:
    if not has_gpu_driver():
        return 0
    try:
        import torch
    except ImportError:  # reported as missing
        return 0
    return torch.cuda.device_count()


def _devices(environ: Mapping[str, str], config: Config, world_size: int) -> Iterator[Problem]:
    gpus = _gpus()
    if config.run.device == "gpu" and not gpus:
        driver = has_gpu_driver()
        why = "torch finds no GPU, though there is a driver" if driver else "this machine has no GPU, or no driver for it"
        mend = "install a torch that is built for it, or set run.device=auto" if driver else "set run.device=auto to use CPUs"
        yield Problem("run.device", "gpu", why, mend)
    local = environ.get("LOCAL_WORLD_SIZE", environ.get("LOCAL_SIZE", ""))  # torchrun's and deepspeed's names
    ranks = int(local) if _is_number(local) else world_size if "RANK" not in environ else 1
    if 0 < gpus < ranks:
        mend = f"start {gpus} at most on each machine, or set CUDA_VISIBLE_DEVICES to the GPUs that are there"
        yield Problem("the processes on this machine", str(ranks), f"it has {gpus} GPUs, and each needs its own", mend)


def _compilers(environ: Mapping[str, str], config: Config, world_size: int) -> Iterator[Problem]:
    """What torch and DeepSpeed build while the run starts, on this machine."""
    if config.model.compile != "none" and not has_gpu_driver():  # for GPUs torch compiles with Triton
        yield from _compiler(environ, "model.compile", config.model.compile, "g++", "set model.compile=none")
    zero = config.parallel.deepspeed.get("zero_optimization")
    for key in ("offload_optimizer", "offload_param"):
        block: Any = zero.get(key) if isinstance(zero, dict) else None
        if not isinstance(block, dict) or block.get("device") != "nvme":
            continue
        where = f"parallel.deepspeed.zero_optimization.{key}.device"
        yield from _compiler(environ, where, "nvme", "c++", "use another device")
        if shutil.which("ninja") is None:
            why = "DeepSpeed builds its reader of files for it, and there is no ninja"
            yield Problem(where, "nvme", why, "install ninja, or use another device")


def _compiler(environ: Mapping[str, str], where: str, value: str, usual: str, other: str) -> Iterator[Problem]:
    """torch runs $CXX, or else the usual name; both as one word."""
    name = environ.get("CXX", usual)
    if shutil.which(name) is None:
        found = f"$CXX, {name!r}, is no program" if "CXX" in environ else f"there is no {name}"
        yield Problem(where, value, f"it needs a C++ compiler, and {found}", f"install g++, set CXX to a compiler, or {other}")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))


def _disk(config: Config, _: int) -> Iterator[Problem]:
    there = _existing(Path(config.run.dir).expanduser())
    parameters = sum(config.model.num_params().values())
    needed = int(parameters * CHECKPOINT_BYTES * _MARGIN)
    try:
        free = shutil.disk_usage(there).free
    except OSError:  # the folder's own check says more
        return
    if free < needed:
        why = (
            f"a checkpoint of {parameters:,} parameters takes {_gigabytes(needed)} GB, and {_gigabytes(free)} GB are free there"
        )
        yield Problem("run.dir", config.run.dir, why, "make room, or choose another run.dir")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f}"


def _index_cache(config: Config, _: int) -> Iterator[Problem]:
    given = config.data.index_cache
    if not given:
        return
    there = _existing(Path(given).expanduser())
    if not there.is_dir():
        why = f"{there} is not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = f"{there} may not be written to"
    else:
        return
    yield Problem("data.index_cache", given, why, "choose another folder, or leave it out")


def _wandb(environ: Mapping[str, str], config: Config, _: int) -> Iterator[Problem]:
    if config.log.wandb != "online" or environ.get("RANK", "0") != "0":  # the first rank alone speaks to it
        return
    if not has_key(environ):
        why = f"there is no key for {wandb_host(environ)}, neither WANDB_API_KEY nor one in {' or '.join(key_files(environ))}"
        yield Problem("log.wandb", "online", why, "run: wandb login, or set log.wandb=offline")
