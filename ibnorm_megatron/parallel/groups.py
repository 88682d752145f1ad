"""The processes of a run and their groups: torch.distributed's world, and megatron-core's groups over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from . import cpu_compat
from .config import Layout


@dataclass(frozen=True)
class World:
    """What the launcher told this process through its environment (torchrun and deepspeed set the same names)."""

    rank: int
    size: int
    local_rank: int

    @staticmethod
    def from_environment(environ: Mapping[str, str] = os.environ) -> World:
        """A process that no launcher started is a world of its own."""
        return World(int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1")), int(environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(world: World, timeout: timedelta = timedelta(minutes=30)) -> Iterator[None]:
    """Join the world over nccl on GPUs and gloo on CPUs, and leave it at the end."""
    cpu_compat.install()
    if cpu_compat.on_gpu():
        torch.cuda.set_device(world.local_rank)
    backend = "nccl" if cpu_compat.on_gpu() else "gloo"
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:  # nobody to meet, so no port to choose
        os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # DeepSpeed insists on it
        dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Groups:
    """This rank's place in the layout. ``tensor`` and ``data`` are torch.distributed groups."""

    layout: Layout
    rank: int
    tensor: dist.ProcessGroup
    data: dist.ProcessGroup

    @property
    def tensor_rank(self) -> int:
        """Rank within the tensor-parallel group."""
        return dist.get_rank(self.tensor)

    @property
    def data_rank(self) -> int:
        """Rank within the data-parallel group."""
        return dist.get_rank(self.data)

    @property
    def data_size(self) -> int:
        """Number of data-parallel ranks."""
        return dist.get_world_size(self.data)

    @property
    def first(self) -> bool:
        """Whether this rank speaks for the run: prints, and writes records."""
        return self.rank == 0


@contextmanager
def model_parallel(layout: Layout, seed: int) -> Iterator[Groups]:
    """Lay megatron-core's groups over the world and seed its random-number states; take them down at the end.

    Several layouts can follow one another in one world.
    """
    from megatron.core import parallel_state, tensor_parallel

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
    )
    try:
        data = parallel_state.get_data_parallel_group(with_context_parallel=True)
        # Dropout differs between data-parallel ranks, and is shared or split over tensor ranks by megatron's tracker.
        rank_seed = seed + 7919 * dist.get_rank(data)
        torch.manual_seed(rank_seed)
        tensor_parallel.model_parallel_cuda_manual_seed(rank_seed)
        yield Groups(layout, dist.get_rank(), parallel_state.get_tensor_model_parallel_group(), data)
    finally:
        parallel_state.destroy_model_parallel()


class ModelParallelUnit:
    """The ``mpu`` object that ``deepspeed.initialize`` asks about model parallelism, over megatron-core's groups."""

    def __getattr__(self, name: str) -> object:
        from megatron.core import parallel_state

        return getattr(parallel_state, name)

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        """All ranks that together hold one copy of the model."""
        from megatron.core import parallel_state

        return parallel_state.get_model_parallel_group()

    def get_model_parallel_rank(self) -> int:
        """Rank within that group; megatron-core dropped this name, DeepSpeed still asks for it."""
        return dist.get_rank(self.get_model_parallel_group())

    def get_model_parallel_world_size(self) -> int:
        """Size of that group."""
        return dist.get_world_size(self.get_model_parallel_group())
