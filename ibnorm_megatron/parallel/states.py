"""The files of a checkpoint: durable when written, and read without pickles that can run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from ..errors import Problem, UserError


class StateFiles(CheckpointEngine):
    """DeepSpeed's reader and writer of single files, in place of its own, which unpickles whatever it is given."""

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


def read_state(path: Path, map_location: Any = "cpu", *, mapped: bool = False) -> Any:
    """Read a state; only tensors, plain values and the few DeepSpeed records named below are accepted.

    ``mapped`` leaves the tensors on disk until they are used.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_records()):
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        why = "it cannot be read: " + str(error).split("\n")[0].rstrip(".")
        mend = "remove this checkpoint and write the name of an older one into checkpoints/latest"
        raise UserError(Problem("the checkpoint file", str(path), why, mend)) from None


def _records() -> list[Any]:
    """DeepSpeed's own classes that its optimizer states hold; each carries plain fields only."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
