"""``checkpoint.json``: what a checkpoint holds, and where. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import Problem, UserError
from ..files import hash_file, hash_text, write_json

RECORD = "checkpoint.json"
FORMAT = "ibnorm_megatron checkpoint"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TensorRecord(_Record):
    """How the shards of tensor ranks make up a logical tensor; see :class:`ibnorm_megatron.parallel.sharding.Sharding`."""

    shape: list[Annotated[int, Field(ge=0)]] = Field(description="of the logical tensor")
    dim: int | None = Field(ge=0, description="the dimension that is sharded")
    stride: int = Field(gt=0, description="parts of that dimension that are sharded one by one")
    padding: int = Field(ge=0, description="elements of that dimension that the shards have beyond the logical tensor's")

    def shard_elements(self, tensor_ranks: int) -> int:
        """Elements of one tensor rank's shard."""
        if self.dim is None:
            return prod(self.shape)
        return prod(size + (self.padding if dim == self.dim else 0) for dim, size in enumerate(self.shape)) // tensor_ranks


class Run(_Record):
    """A run of elements of one tensor rank's shard, flattened."""

    start: int = Field(ge=0)
    length: int = Field(gt=0)


class FileRecord(_Record):
    """One file, as one rank wrote it."""

    bytes: int = Field(ge=0)
    hash: str
    tensor_rank: int = Field(ge=0, description="whose shards the runs are of")
    runs: dict[str, Run] = Field(description="of parameters, by name; all kinds of a parameter have the same")
    buffers: list[str] = Field(description="whole shards of buffers, by name")
    seconds: float = Field(ge=0, description="that writing it took, hash and fsync included")


class CheckpointRecord(_Record):
    """Everything about a checkpoint but the tensors themselves.

    Attributes beyond the fields' descriptions: ``config`` is the resolved config and ``card`` the run card of the run at
    this moment, ``layout`` the sizes of the world that wrote it.
    """

    format: Literal["ibnorm_megatron checkpoint"]
    version: Literal[1]
    step: int = Field(ge=0)
    samples: int = Field(ge=0, description="that the run has consumed: the loader's position")
    tokens: int = Field(ge=0, description="labels seen")
    optimizer_steps: int = Field(ge=0, description="steps without those that were skipped")
    loss_scale: dict[str, float] = Field(description="fp16's, with what it goes by")
    kinds: list[str] = Field(description="what there is of every parameter")
    layout: dict[str, Any]
    config: dict[str, Any]
    card: dict[str, Any]
    callbacks: dict[str, Any] = Field(description="their states, by class")
    parameters: dict[str, TensorRecord]
    buffers: dict[str, TensorRecord]
    files: dict[str, FileRecord]

    @property
    def tensor_ranks(self) -> int:
        """Ranks that shared every tensor."""
        return int(self.layout["tensor"])

    def runs(self, name: str, tensor_rank: int) -> list[tuple[str, Run]]:
        """The files that hold a tensor rank's shard of a parameter, and which run each has, in their order."""
        found = [
            (file, record.runs[name])
            for file, record in self.files.items()
            if record.tensor_rank == tensor_rank and name in record.runs
        ]
        return sorted(found, key=lambda one: one[1].start)

    def contradiction(self) -> str | None:
        """What of this cannot be so, whatever the files hold. Readers rely on all of it."""
        ranks, world = self.layout["tensor"], self.layout.get("world_size", 0)
        if type(ranks) is not int or ranks < 1:
            return "layout.tensor is no number of ranks"
        # Names are ours alone: one with folders in it would have readers open files elsewhere.
        if set(self.files) != {f"rank-{rank:05d}.safetensors" for rank in range(len(self.files))}:
            return "files are not named as ranks are"
        if world not in (0, len(self.files)):
            return f"layout.world_size is {world}, and there are {len(self.files)} files"
        if self.kinds[:1] != ["weight"]:
            return "kinds do not begin with weight"
        for name, tensor in (self.parameters | self.buffers).items():
            if tensor.dim is not None and tensor.dim >= len(tensor.shape):
                return f"{name} is sharded in a dimension that it has not"
        for file, record in self.files.items():
            if 4 * len(self.kinds) * sum(run.length for run in record.runs.values()) > record.bytes:
                return f"{file} is too short for what it holds"
        for name, tensor in self.buffers.items():
            held = {record.tensor_rank for record in self.files.values() if name in record.buffers}
            if not held or (tensor.dim is not None and len(held) != ranks):
                return f"the buffer {name} is in no file"
        return None

    def gaps(self) -> Iterator[str]:
        """Parameters of which some elements are in no file, or in two."""
        where: dict[tuple[str, int], list[Run]] = {}
        for record in self.files.values():
            for name, run in record.runs.items():
                where.setdefault((name, record.tensor_rank), []).append(run)
        for name, tensor in self.parameters.items():
            for rank in range(self.tensor_ranks if tensor.dim is not None else 1):
                at = 0
                for run in sorted(where.get((name, rank), []), key=lambda run: run.start):
                    if run.start != at:
                        break
                    at += run.length
                if not at or at != tensor.shard_elements(self.tensor_ranks):
                    yield name
                    break


def write_record(folder: Path, record: CheckpointRecord) -> None:
    """Write a finished checkpoint's record, with a hash of itself."""
    values = record.model_dump(mode="json")
    write_json(folder / RECORD, {**values, "hash": _hash(values)})


def read_record(folder: Path) -> CheckpointRecord:
    """Read a checkpoint's record.

    Raises:
        UserError: it is not there, is damaged, or is none.
    """
    path = folder / RECORD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        said = values.pop("hash")
        if said != _hash(values):
            raise ValueError("its content is not what its hash says")
        record = CheckpointRecord.model_validate(values)
        if wrong := record.contradiction():
            raise ValueError(wrong)
        if missing := next(record.gaps(), None):
            raise ValueError(f"elements of {missing} are in no file")
        return record
    except OSError as error:
        why = f"it cannot be read ({error.strerror})"
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, detail['loc']))}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = str(error) if type(error) is ValueError else "it is no record of a checkpoint"
        why = f"it is damaged: {said}"
    raise UserError(Problem("the checkpoint's record", str(path), why, "restore it from a copy, or use an older checkpoint"))


def hash_of(record: CheckpointRecord) -> str:
    """What a checkpoint's record says of itself under ``hash``."""
    return _hash(record.model_dump(mode="json"))


def damages(folder: Path, record: CheckpointRecord, files: Iterable[str]) -> Iterator[Problem]:
    """Which of these files are not as they were written: every byte is read and hashed."""
    mend = "restore it from a copy, or use an older checkpoint"
    for name in files:
        path, said = folder / name, record.files[name]
        try:
            status = path.stat()
            size = status.st_size
            if not S_ISREG(status.st_mode):
                yield Problem("the checkpoint file", str(path), "it is no plain file", mend)
            elif size != said.bytes:
                yield Problem("the checkpoint file", str(path), f"it has {size} bytes and was written with {said.bytes}", mend)
            elif hash_file(path) != said.hash:
                yield Problem("the checkpoint file", str(path), "its bytes are not those that were written", mend)
        except OSError as error:
            yield Problem("the checkpoint file", str(path), f"it cannot be read ({error.strerror})", mend)


def _hash(values: Any) -> str:
    return hash_text(json.dumps(values, sort_keys=True, separators=(",", ":")))
