"""The processes of a run and their groups: torch.distributed's world, and megatron-core's groups over it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from ..errors import Problem, RunFailure, UserError
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
def process_group(
    world: World,
    timeout: timedelta = timedelta(minutes=30),
    store: dist.Store | None = None,
    meeting: timedelta = timedelta(minutes=30),
) -> Iterator[None]:
    """Join the world over nccl on GPUs and gloo on CPUs, and leave it at the end.

    Ranks meet at ``store``, or else where the launcher's environment says; those that are there wait ``meeting`` for others.

    Raises:
        UserError: the port to meet at is taken, or is none.
        RunFailure: some rank does not arrive.
    """
    cpu_compat.install()
    if cpu_compat.on_gpu():
        torch.cuda.set_device(world.local_rank)
    if store is None:
        store = _meet(world, meeting) if "MASTER_ADDR" in os.environ else dist.HashStore()  # or there is nobody to meet
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # DeepSpeed insists on it
    backend = "nccl" if cpu_compat.on_gpu() else "gloo"
    dist.init_process_group(backend, timeout=timeout, store=store, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def meeting_place(environ: Mapping[str, str] = os.environ) -> tuple[int | None, str]:
    """The rank that serves the store at which the ranks meet, None where the launcher does, and the store's address."""
    by_launcher = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return None if by_launcher else 0, f"{environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}"


def _meet(world: World, within: timedelta) -> dist.Store:
    """The store at which the ranks of a launcher meet, once all of them are there."""
    served_by, where = meeting_place()
    host, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "")
    if not (port.isdecimal() and int(port) < 2**16):
        raise UserError(Problem("MASTER_PORT", port or "missing", "it is no port", "let the launcher choose one"))
    try:
        store = dist.TCPStore(
            host, int(port), world.size, served_by == world.rank, within, wait_for_workers=False, multi_tenant=True
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            mend = "give the launcher another one, or end that program"
            raise UserError(Problem("MASTER_PORT", port, f"another program listens there on {host}", mend)) from None
        why = f"rank {world.rank} does not reach it within {within.total_seconds():.0f} s"
        raise RunFailure(Problem("the ranks' meeting place", where, why, "see whether rank 0 lives, and the address")) from None
    store.set(f"arrived/{world.rank}", "")
    if store.add("arrived", 1) == world.size:
        store.set("all arrived", "")
    try:
        store.wait(["all arrived"], within)
    except (dist.DistStoreError, dist.DistNetworkError):
        raise RunFailure(_missing(store, world, where, within)) from None
    return store


def _missing(store: dist.Store, world: World, where: str, within: timedelta) -> Problem:
    """Who has not come to the store; it may be gone itself."""
    why = f"not all {world.size} ranks came within {within.total_seconds():.0f} s"
    with suppress(RuntimeError):
        missing = [str(rank) for rank in range(world.size) if not store.check([f"arrived/{rank}"])]
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        why += f", missing are {', '.join(missing[:8])}{more}" if missing else ""
    return Problem("the ranks' meeting place", where, why, "see what these ranks or their hosts say, and start again")


@dataclass(frozen=True)
class Groups:
    """This rank's place in the layout; every group is one of torch.distributed's.

    Attributes:
        layout: the sizes.
        rank: in the world.
        tensor: the ranks that share every matrix product with this one.
        pipeline: the ranks that hold the other layers, in their order.
        context: the ranks that hold the other tokens of this rank's sequences.
        data: the ranks that hold the same weights and see other sequences.
        replicas: the ranks that hold the same weights, ``data`` times ``context``: gradients are averaged over them.
        embedding: the first and last stage of this rank's pipeline, which share tied embeddings; None on others.
    """

    layout: Layout
    rank: int
    tensor: dist.ProcessGroup
    pipeline: dist.ProcessGroup
    context: dist.ProcessGroup
    data: dist.ProcessGroup
    replicas: dist.ProcessGroup
    embedding: dist.ProcessGroup | None

    @staticmethod
    def current(layout: Layout) -> Groups:
        """This rank's place in the groups that megatron-core has laid over the world, which are of ``layout``."""
        from megatron.core import parallel_state

        pair = parallel_state.is_rank_in_embedding_group()
        return Groups(
            layout,
            dist.get_rank(),
            tensor=parallel_state.get_tensor_model_parallel_group(),
            pipeline=parallel_state.get_pipeline_model_parallel_group(),
            context=parallel_state.get_context_parallel_group(),
            data=parallel_state.get_data_parallel_group(),
            replicas=parallel_state.get_data_parallel_group(with_context_parallel=True),
            embedding=parallel_state.get_embedding_group(check_initialized=False) if pair else None,
        )

    @property
    def tensor_rank(self) -> int:
        """Rank within the tensor-parallel group."""
        return dist.get_rank(self.tensor)

    @property
    def stage(self) -> int:
        """Which part of the layers this rank holds, from 0."""
        return dist.get_rank(self.pipeline)

    @property
    def first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def last_stage(self) -> bool:
        """Whether this rank holds the output head and computes the loss."""
        return self.stage == self.layout.pipeline - 1

    @property
    def data_rank(self) -> int:
        """Rank within the data-parallel group."""
        return dist.get_rank(self.data)

    @property
    def data_size(self) -> int:
        """Number of data-parallel ranks."""
        return dist.get_world_size(self.data)

    @property
    def num_replicas(self) -> int:
        """Number of ranks that hold the same weights."""
        return dist.get_world_size(self.replicas)

    @property
    def counts(self) -> bool:
        """Whether this rank's losses and labels enter sums over the world: each label's are on one such rank."""
        return self.last_stage and self.tensor_rank == 0

    @property
    def first(self) -> bool:
        """Whether this rank speaks for the run: prints, and writes records."""
        return self.rank == 0

    def seed_random(self, seed: int) -> None:
        """Seed torch's, NumPy's, Python's and Megatron-core's generators, the last apart for each tensor rank."""
        from megatron.core import tensor_parallel

        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        tensor_parallel.model_parallel_cuda_manual_seed(seed)


@contextmanager
def model_parallel(layout: Layout, seed: int) -> Iterator[Groups]:
    """Lay megatron-core's groups over the world and seed its random-number states; take them down at the end.

    Several layouts can follow one another in one world.
    """
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
    )
    try:
        groups = Groups.current(layout)
        # Dropout differs between ranks with other tokens and between stages, and is shared or split over tensor ranks by
        # megatron's tracker.
        groups.seed_random(seed + 7919 * dist.get_rank(groups.replicas) + 104_729 * groups.stage)
        yield groups
    finally:
        parallel_state.destroy_model_parallel()


class ModelParallelUnit:
    """The ``mpu`` object that ``deepspeed.initialize`` asks about model parallelism, over megatron-core's groups."""

    def __getattr__(self, name: str) -> object:
        from megatron.core import parallel_state

        return getattr(parallel_state, name)

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        """All ranks that hold the same weights: those that share a sequence have gradients to average too."""
        from megatron.core import parallel_state

        return parallel_state.get_data_parallel_group(with_context_parallel=True)

    def get_data_parallel_rank(self) -> int:
        """Rank within that group."""
        return dist.get_rank(self.get_data_parallel_group())

    def get_data_parallel_world_size(self) -> int:
        """Size of that group."""
        return dist.get_world_size(self.get_data_parallel_group())

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
