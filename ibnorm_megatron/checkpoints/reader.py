"""Reading a checkpoint back, for a layout that need not be the one that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Problem, UserError
from ..parallel.sharding import Sharding
from .record import TensorRecord, read_record
from .writer import file_of


class CheckpointReader:
    """Reads runs of shards out of a checkpoint; files are mapped, and only what is asked for is read.

    Where the sharding is that of the writer, that is a copy of bytes. Else the logical tensor is put together, one at a time,
    and cut anew.

    Raises:
        UserError: the record, or a file that is asked for, is missing, damaged, or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, read_record(folder)
        self._files: dict[str, Any] = {}

    def run(self, kind: str, name: str, sharding: Sharding, rank: int, ranks: int, start: int, length: int) -> Tensor:
        """Elements of tensor rank ``rank`` of ``ranks``' shard of a parameter, flattened: ``[length]`` from ``start``.

        Raises:
            UserError: the checkpoint has no such parameter, or one of another shape.
        """
        saved = self._like(self.record.parameters, name, sharding)
        # One rank's vectors may not be marked as shards although others' are: what was written says how they lie.
        if saved.dim is None and sharding.dim is None:
            return self._run(kind, name, 0, start, length)
        if saved.dim == sharding.dim and ranks == self.record.tensor_ranks:
            return self._run(kind, name, rank, start, length)
        return sharding.take(self.logical(kind, name), rank, ranks).reshape(-1)[start : start + length]

    def logical(self, kind: str, name: str) -> Tensor:
        """A parameter's whole logical tensor."""
        saved = self.record.parameters[name]
        ranks = range(self.record.tensor_ranks if saved.dim is not None else 1)
        return _sharding(saved).join([self._shard(kind, name, saved, of) for of in ranks])

    def buffer(self, name: str, sharding: Sharding, rank: int, ranks: int) -> Tensor:
        """A tensor rank's shard of a buffer.

        Raises:
            UserError: the checkpoint has no such buffer, or one of another shape.
        """
        self._like(self.record.buffers, name, sharding)
        return sharding.take(self.logical_buffer(name), rank, ranks)

    def logical_buffer(self, name: str) -> Tensor:
        """A whole logical buffer."""
        by_rank: dict[int, Tensor] = {}
        for file, record in self.record.files.items():
            if name in record.buffers and record.tensor_rank not in by_rank:
                by_rank[record.tensor_rank] = self._open(file).get_tensor(f"buffer/{name}")
        return _sharding(self.record.buffers[name]).join([by_rank[of] for of in sorted(by_rank)])

    def random(self, rank: int) -> dict[str, Tensor]:
        """The random-number states of a rank of the world that wrote the checkpoint."""
        file = self._open(file_of(rank))
        return {key.removeprefix("random/"): file.get_tensor(key) for key in file.keys() if key.startswith("random/")}  # noqa: SIM118

    def _like(self, there: dict[str, TensorRecord], name: str, sharding: Sharding) -> TensorRecord:
        where = f"{name} in the checkpoint {self.folder}"
        mend = "go on with the model that was saved, or choose another run.dir"
        if name not in there:
            raise UserError(Problem(where, "missing", "the model has it", mend))
        if tuple(there[name].shape) != sharding.shape:
            why = f"the model's is {list(sharding.shape)}"
            raise UserError(Problem(where, str(there[name].shape), why, mend))
        return there[name]

    def _shard(self, kind: str, name: str, saved: TensorRecord, rank: int) -> Tensor:
        shape = list(saved.shape)
        if saved.dim is not None:
            shape[saved.dim] = (shape[saved.dim] + saved.padding) // self.record.tensor_ranks
        return self._run(kind, name, rank, 0, saved.shard_elements(self.record.tensor_ranks)).view(shape)

    def _run(self, kind: str, name: str, rank: int, start: int, length: int) -> Tensor:
        found = torch.empty(length, dtype=torch.float32)
        filled = 0
        for file, run in self.record.runs(name, rank):
            first, last = max(start, run.start), min(start + length, run.start + run.length)
            if first < last:
                found[first - start : last - start] = self._part(file, f"{kind}/{name}", first - run.start, last - run.start)
                filled += last - first
        assert filled == length, f"{name} has {filled} of {length} elements in the shard of rank {rank}"
        return found

    def _part(self, file: str, name: str, start: int, end: int) -> Tensor:
        """Elements of a flat tensor of a file, which may be well hashed and hold something else than the record says."""
        from safetensors import SafetensorError

        try:
            part: Tensor = self._open(file).get_slice(name)[start:end]
        except SafetensorError as error:
            why = str(error)
        else:
            if part.shape == (end - start,) and part.dtype == torch.float32:
                return part
            why = f"{name} has other elements"
        mend = "restore it from a copy, or use an older checkpoint"
        raise UserError(
            Problem("the checkpoint file", str(self.folder / file), f"it is not what the record says ({why})", mend)
        )

    def _open(self, name: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if name not in self._files:
            path = self.folder / name
            try:
                self._files[name] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                why = f"it cannot be read ({error})"
                mend = "restore it from a copy, or use an older checkpoint"
                raise UserError(Problem("the checkpoint file", str(path), why, mend)) from None
        return self._files[name]


def tensor_record(sharding: Sharding) -> TensorRecord:
    """A sharding as a checkpoint's record has it."""
    return TensorRecord(shape=list(sharding.shape), dim=sharding.dim, stride=sharding.stride, padding=sharding.padding)


def _sharding(record: TensorRecord) -> Sharding:
    return Sharding(tuple(record.shape), record.dim, record.stride, record.padding)
