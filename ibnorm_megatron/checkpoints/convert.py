"""A checkpoint written anew: as logical tensors in few files, or as plain weights for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import raise_if_any
from ..files import new_folder, sync_file, write_json, write_text
from .reader import CheckpointReader
from .record import Run, damages
from .writer import Part, write_part, write_whole

DTypeName = Literal["float32", "bfloat16", "float16"]

Show = Callable[[int], None]


def convert(source: Path, out: Path, *, max_bytes: int, show: Show = lambda elements: None) -> None:
    """Write a checkpoint with every logical tensor in one piece, as one process without tensor parallelism would.

    It opens in every layout, as the source does; a random-number state is not in it, since these belong to ranks.

    Args:
        source: a checkpoint's folder.
        out: the new folder, which must not exist.
        max_bytes: about how long a file may be; a tensor is never cut.
        show: told how many elements were just read.

    Raises:
        UserError: ``out`` exists, or the source is damaged.
        OSError: the disk is full, or may not be written to.
    """
    reader = _whole_reader(source)
    with new_folder(out) as draft:
        _write_whole(reader, draft, max_bytes, show)


def _write_whole(reader: CheckpointReader, draft: Path, max_bytes: int, show: Show) -> None:
    record = reader.record
    parts = 0
    for names in _portions(reader, 4 * len(record.kinds), max_bytes):
        part = Part(rank=parts, tensor_rank=0)
        for name in names:
            for kind in record.kinds:
                part.tensors[f"{kind}/{name}"] = reader.logical(kind, name).reshape(-1).contiguous()
                show(part.tensors[f"{kind}/{name}"].numel())
            part.runs[name] = Run(start=0, length=part.tensors[f"{record.kinds[0]}/{name}"].numel())
            whole = record.parameters[name].model_copy(update={"padding": 0})
            part.parameters[name] = whole
        if parts == 0:
            for name, saved in record.buffers.items():
                part.buffers[name] = saved.model_copy(update={"padding": 0})
                part.tensors[f"buffer/{name}"] = reader.logical_buffer(name).contiguous()
        write_part(draft, part)
        parts += 1
    head = record.model_dump(mode="json", exclude={"parameters", "buffers", "files"})
    nobody = {"world_size": 0, "tensor": 1, "pipeline": 1, "context": 1}
    write_whole(draft, parts, {**head, "layout": {**record.layout, **nobody}})


def export_weights(source: Path, out: Path, dtype: DTypeName, *, max_bytes: int, show: Show = lambda elements: None) -> None:
    """Write the weights alone, in their shapes and under their names: ``model-N-of-M.safetensors``, config and run card.

    Arguments and errors as :func:`convert`; ``dtype`` is what the float32 weights are rounded to.
    """
    reader = _whole_reader(source)
    with new_folder(out) as draft:
        _write_weights(reader, draft, dtype, max_bytes, show)


def _write_weights(reader: CheckpointReader, draft: Path, dtype: DTypeName, max_bytes: int, show: Show) -> None:
    import yaml
    from safetensors.torch import save_file

    target: torch.dtype = getattr(torch, dtype)
    portions = list(_portions(reader, target.itemsize, max_bytes))
    where: dict[str, str] = {}
    for number, names in enumerate(portions, start=1):
        file = draft / f"model-{number:05d}-of-{len(portions):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors[name] = reader.logical("weight", name).to(target).contiguous()
            where[name] = file.name
            show(tensors[name].numel())
        save_file(tensors, file, metadata={"format": "pt"})
        file.chmod(draft.stat().st_mode & 0o666)
        sync_file(file)
    total = sum(torch.Size(tensor.shape).numel() for tensor in reader.record.parameters.values()) * target.itemsize
    write_json(draft / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    write_text(draft / "config.yaml", yaml.safe_dump(reader.record.config, sort_keys=False))
    write_json(draft / "run_card.json", {**reader.record.card, "step": reader.record.step})


def _whole_reader(source: Path) -> CheckpointReader:
    """Of a checkpoint of which every byte is as it was written: what is written anew gets hashes that say so."""
    reader = CheckpointReader(source)
    raise_if_any(damages(source, reader.record, reader.record.files))
    return reader


def _portions(reader: CheckpointReader, bytes_an_element: int, max_bytes: int) -> Iterator[list[str]]:
    """Names of parameters, as many at a time as a file may hold."""
    names: list[str] = []
    held = 0
    for name, tensor in reader.record.parameters.items():
        size = torch.Size(tensor.shape).numel() * bytes_an_element
        if names and held + size > max_bytes:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names
