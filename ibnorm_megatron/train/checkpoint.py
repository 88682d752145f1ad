"""Saving and restoring a run's state: what the engine holds, the random numbers of every rank, and the run's own values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..errors import Problem, UserError
from ..parallel.cpu_compat import device, on_gpu
from ..parallel.engine import Engine
from ..parallel.states import read_state, write_state
from .run_folder import RunFolder


def save_checkpoint(folder: RunFolder, engine: Engine, state: dict[str, Any], keep_last: int) -> None:
    """Save everything a resumed run needs. Collective. A reader sees the checkpoint whole, or not at all.

    Args:
        folder: the run's.
        engine: weights and optimizer state.
        state: the same on every rank, plain values; ``step`` names the checkpoint.
        keep_last: how many of the newest checkpoints stay.
    """
    step, draft = state["step"], folder.draft_checkpoint(state["step"])
    if dist.get_rank() == 0:
        folder.begin_checkpoint(step)
    dist.barrier()
    engine.save(folder.checkpoints, draft.name, state)
    # DeepSpeed keeps one client state per model-parallel rank; random numbers differ on every rank.
    write_state(_random_file(draft), _random_state())
    dist.barrier()
    if dist.get_rank() == 0:
        folder.commit_checkpoint(step, keep_last)
    dist.barrier()


def load_checkpoint(folder: RunFolder, engine: Engine, name: str) -> dict[str, Any]:
    """Restore a checkpoint of the same layout; returns the ``state`` that was saved. Collective.

    Raises:
        UserError: a file is missing, damaged or no state; on every rank, if it is so on one.
    """
    _agree_that_it_is_readable(folder.checkpoints / name)
    state = engine.load(folder.checkpoints, name)
    if state is None:
        where = str(folder.checkpoints / name)
        raise UserError(
            Problem("the checkpoint", where, "it has no files for this layout", "resume with the layout it was saved in")
        )
    _restore_random_state(read_state(_random_file(folder.checkpoints / name)))
    return state


def _agree_that_it_is_readable(checkpoint: Path) -> None:
    """Look into every file, each rank into its share. A rank that failed within DeepSpeed would leave the others waiting."""
    problem = None
    try:
        for path in sorted(checkpoint.glob("*.pt"))[dist.get_rank() :: dist.get_world_size()]:
            read_state(path, mapped=True)
    except UserError as error:
        problem = error
    failed = torch.tensor(float(problem is not None), device=device())
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if problem is not None:
        raise problem
    if failed:
        why = "another rank found a file of it damaged"
        raise UserError(Problem("the checkpoint", str(checkpoint), why, "see what that rank says"))


def _random_file(checkpoint: Path) -> Path:
    return checkpoint / f"random-rank{dist.get_rank()}.pt"


def _random_state() -> dict[str, Any]:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    state = {"cpu": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    return {**state, "gpu": torch.cuda.get_rng_state(device())} if on_gpu() else state


def _restore_random_state(state: dict[str, Any]) -> None:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    torch.set_rng_state(state["cpu"])
    get_cuda_rng_tracker().set_states(state["tracker"])
    if on_gpu():
        torch.cuda.set_rng_state(state["gpu"], device())
