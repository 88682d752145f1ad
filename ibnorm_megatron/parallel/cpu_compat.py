"""Everything that differs between a run on GPUs and the same run on CPUs with gloo. Without effect where CUDA is there.

megatron-core asks ``torch.cuda`` for the current device and keeps its random-number states there. On a CPU the device is
the CPU, and the tracker forks the CPU generator. DeepSpeed is told which accelerator it runs on, kept from compiling
its shared-memory collective (35 s at every first use) that gloo replaces, and from refusing fp16 on CPUs of some makes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch

from ..errors import Problem, UserError

_WRITTEN_FOR = "0.16."


def on_gpu() -> bool:
    """Whether this process trains on a GPU."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """The device of this process."""
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu() else torch.device("cpu")


class LateRead:
    """Numbers of the device's, copied now and read later: reading waits for the copy and for nothing queued after it."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._copied = None
        if numbers.is_cuda:
            self._host = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(numbers, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._host = numbers.clone()

    def values(self) -> list[float]:
        """The numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(number) for number in self._host]


def install() -> None:
    """Prepare megatron-core and DeepSpeed for a CPU. Call before either builds anything; calling again does nothing.

    Raises:
        UserError: the megatron-core installed is not the one this module was written for.
    """
    if on_gpu():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    megatron = version("megatron-core")
    if not megatron.startswith(_WRITTEN_FOR):
        why = f"running it on a CPU is written for {_WRITTEN_FOR}x"
        raise UserError(Problem("megatron-core's version", megatron, why, "install megatron-core==0.16.1"))
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    if random.CudaRNGStatesTracker is not _cpu_tracker(random):
        cpu = torch.device("cpu")
        torch.cuda.current_device = lambda: cpu  # type: ignore[assignment]
        torch.cuda.manual_seed = torch.manual_seed  # type: ignore[assignment]
        torch.cuda.synchronize = lambda device=None: None  # type: ignore[assignment]
        torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor  # type: ignore[assignment]
        for name in _SAYING_CUDA:
            importlib.import_module(name).torch = _TorchOnCpu()  # type: ignore[attr-defined]
        random.CudaRNGStatesTracker = _cpu_tracker(random)
        random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
        random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    ops = importlib.import_module("deepspeed.ops")
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # It asks whether the CPU has instructions for fp16. PyTorch computes it on every CPU, on others only more slowly.
    importlib.import_module("deepspeed.accelerator").get_accelerator().is_fp16_supported = lambda: True


#: Modules of megatron-core that name the device, or pin memory, where they make a tensor.
_SAYING_CUDA = ("megatron.core.pipeline_parallel.schedules", "megatron.core.models.common.embeddings.rope_utils")


class _TorchOnCpu:
    """``torch`` for such a module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def zeros(*size: Any, device: Any = None, **keywords: Any) -> torch.Tensor:
        return torch.zeros(*size, **keywords)

    @staticmethod
    def tensor(data: Any, device: Any = None, pin_memory: bool = False, **keywords: Any) -> torch.Tensor:
        return torch.tensor(data, **keywords)


_TRACKERS: dict[Any, type] = {}


def _cpu_tracker(random: Any) -> type:
    """The CPU counterpart of ``megatron.core.tensor_parallel.random.CudaRNGStatesTracker``, made once."""
    if random in _TRACKERS:
        return _TRACKERS[random]

    class CpuRNGStatesTracker(random.CudaRNGStatesTracker):  # type: ignore[misc, name-defined]
        """Named generator states, forked from and back into the CPU's default generator."""

        def add(self, name: str, seed: int) -> None:
            if seed in self.seeds_ or name in self.states_:
                raise ValueError(f"the random-number state {name!r} with seed {seed} is tracked already")
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator().manual_seed(seed).get_state()

        @contextlib.contextmanager
        def fork(self, name: str = random._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
            outer = torch.get_rng_state()
            torch.set_rng_state(self.states_[name])
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outer)

    _TRACKERS[random] = CpuRNGStatesTracker
    return CpuRNGStatesTracker
