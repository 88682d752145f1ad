"""Saving and restoring a run's state: DeepSpeed's sharded files, written durably and read without pickles that can run code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from ..errors import Problem, UserError
from ..parallel.cpu_compat import device, on_gpu
from ..parallel.engine import Engine
from .run_folder import RunFolder


class SafeCheckpointEngine(CheckpointEngine):
    """DeepSpeed's reader and writer of single files: fsynced when written, ``weights_only`` when read."""

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing to announce: the run folder makes and names the checkpoint's folder."""

    def save(self, state_dict: Any, path: str) -> None:
        write_state(Path(path), state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        return read_state(Path(path), map_location)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """Every file is durable once saved."""
        return True


def write_state(path: Path, state: Any) -> None:
    """Write a state with torch.save and make it durable."""
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path, map_location: Any = "cpu") -> Any:
    """Read a state; only tensors, plain values and the few DeepSpeed records named below are accepted.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_records()):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, torch.serialization.pickle.UnpicklingError) as error:
        why = "it cannot be read: " + str(error).split("\n")[0]
        mend = "remove this checkpoint and write the name of an older one into checkpoints/latest"
        raise UserError(Problem("the checkpoint file", str(path), why, mend)) from None


def _records() -> list[Any]:
    """DeepSpeed's own classes that its optimizer states hold; each carries plain fields only."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]


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
    engine.deepspeed.save_checkpoint(str(folder.checkpoints), tag=draft.name, client_state={"run": state}, save_latest=False)
    # DeepSpeed keeps one client state per model-parallel rank; random numbers differ on every rank.
    write_state(draft / f"random-rank{dist.get_rank()}.pt", _random_state())
    dist.barrier()
    if dist.get_rank() == 0:
        folder.commit_checkpoint(step, keep_last)
    dist.barrier()


def load_checkpoint(folder: RunFolder, engine: Engine, name: str) -> dict[str, Any]:
    """Restore a checkpoint of the same layout; returns the ``state`` that was saved. Collective."""
    path, client = engine.deepspeed.load_checkpoint(str(folder.checkpoints), tag=name)
    if path is None:
        where = str(folder.checkpoints / name)
        raise UserError(
            Problem("the checkpoint", where, "it has no files for this layout", "resume with the layout it was saved in")
        )
    _restore_random_state(read_state(folder.checkpoints / name / f"random-rank{dist.get_rank()}.pt"))
    return client["run"]


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
