"""Writing a checkpoint: every rank its part, then one of them the record that makes it whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ..errors import Problem, RunFailure
from ..files import hash_file, sync_file, write_text
from .record import CheckpointRecord, FileRecord, Run, TensorRecord, write_record


@dataclass
class Part:
    """What one rank writes.

    Attributes:
        rank: in the world.
        tensor_rank: whose shards these are.
        tensors: by ``KIND/NAME``, on the CPU and nobody else's: the runs, ``buffer/NAME`` and ``random/...``.
        runs: of parameters, by name.
        parameters: how shards make up those.
        buffers: how shards make up the buffers that are written.
    """

    rank: int
    tensor_rank: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    parameters: dict[str, TensorRecord] = field(default_factory=dict)
    buffers: dict[str, TensorRecord] = field(default_factory=dict)


class _Note(BaseModel):
    """What a rank leaves for the one that writes the record."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    file: FileRecord
    parameters: dict[str, TensorRecord]
    buffers: dict[str, TensorRecord]


def file_of(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.safetensors"


def write_part(folder: Path, part: Part) -> None:
    """Write one rank's file into a draft, durably, and a note of it. Ranks may do so at once.

    Raises:
        OSError: the disk is full, or may not be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_of(part.rank)
    try:
        save_file(part.tensors, path)
    except SafetensorError as error:  # it wraps what the system says
        raise OSError(str(error)) from error
    path.chmod(folder.stat().st_mode & 0o666)  # safetensors lets nobody else read it, whatever the umask says
    sync_file(path)
    record = FileRecord(
        bytes=path.stat().st_size,
        hash=hash_file(path),
        tensor_rank=part.tensor_rank,
        runs=part.runs,
        buffers=list(part.buffers),
        seconds=time.monotonic() - started,
    )
    note = _Note(file=record, parameters=part.parameters, buffers=part.buffers)
    write_text(_note_of(folder, part.rank), note.model_dump_json())


def write_whole(folder: Path, ranks: int, head: Mapping[str, Any]) -> None:
    """Write the record of a draft to which all ranks have written their parts; ``head`` has the fields but tensors and files.

    Raises:
        OSError: the disk is full, or may not be written to.
        RunFailure: another rank's part is not there: the folder is not the same one on all nodes.
    """
    notes = [_read_note(folder, rank) for rank in range(ranks)]
    parameters: dict[str, TensorRecord] = {}
    buffers: dict[str, TensorRecord] = {}
    for note in notes:
        parameters |= note.parameters
        buffers |= note.buffers
    files = {file_of(rank): note.file for rank, note in enumerate(notes)}
    record = CheckpointRecord(parameters=parameters, buffers=buffers, files=files, **head)
    missing = list(record.gaps())
    assert not missing, f"nobody wrote all of {missing[:3]}"
    write_record(folder, record)
    for rank in range(ranks):
        _note_of(folder, rank).unlink()


def _note_of(folder: Path, rank: int) -> Path:
    return folder / f".rank-{rank:05d}.json"


def _read_note(folder: Path, rank: int) -> _Note:
    path = _note_of(folder, rank)
    try:
        return _Note.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        why = f"rank {rank} wrote its part elsewhere"
        mend = "give a run.dir on a file system that all nodes share"
        raise RunFailure(Problem("the checkpoint's folder", str(folder), why, mend)) from None
