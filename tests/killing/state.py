"""What a run's folder holds, read as someone would who knows files but none of the trainer's code, and compared bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What differs between two runs of the same curve: how long they took, where they lie, how often they were started.
_TIMES = frozenset(
    {"tokens_per_second", "step_seconds", "seconds", "checkpoint_seconds", "tflops_per_rank", "mfu", "peak_memory_bytes"}
)
_PLACES = frozenset({"config", "card", "hash"})  # the last is of a record that holds the others


def checkpoint_names(run: Path) -> list[str]:
    """Folders with a checkpoint's name, the newest first."""
    return sorted((path.name for path in (run / "checkpoints").glob("step-*")), reverse=True)


def named_checkpoint(run: Path) -> str | None:
    """The checkpoint that ``latest`` names, which has to be there; the newest if nothing is named, None if there is none."""
    pointer = run / "checkpoints" / "latest"
    name = pointer.read_text().strip() if pointer.is_file() else ""
    if not name:
        return next(iter(checkpoint_names(run)), None)
    assert (run / "checkpoints" / name).is_dir(), f"{pointer} names {name!r}, which is not there"
    return name


def step_of(name: str | None) -> int:
    """The step of a checkpoint's name; 0 for none."""
    return int(name.rpartition("-")[2]) if name else 0


def contents(checkpoint: Path) -> dict[str, Any]:
    """Everything a checkpoint holds, by file: tensors and plain values.

    Raises:
        Exception: whatever its parts raise, if a file is damaged.
    """
    return {path.name: _read(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def differing(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Where two nests of tensors and values are not the same, bit for bit; times are not looked at."""
    import torch

    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            if key in _TIMES | _PLACES:
                continue
            if key not in a or key not in b:
                yield f"{where}/{key} is on one side only"
            else:
                yield from differing(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        if not same or a.contiguous().view(-1).view(torch.uint8).ne(b.contiguous().view(-1).view(torch.uint8)).any():
            yield f"{where}: tensors differ"
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differing(one, other, f"{where}/{number}")
    elif hasattr(a, "__dict__") and type(a) is type(b):
        yield from differing(vars(a), vars(b), where)
    elif a != b and not (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)):
        yield f"{where}: {a!r} is not {b!r}"


def files(run: Path) -> list[str]:
    """What lies in a run's folder and was not there on purpose or by chance: neither put aside, nor of the index, which is
    built when it is asked for, nor an old checkpoint, which the next save removes. What is half-written is always listed."""
    aside = ("superseded-", "damaged-", "metrics.superseded-", "telemetry.superseded-", "index")
    newest = named_checkpoint(run) or ""

    def counts(parts: tuple[str, ...]) -> bool:
        half = any(part.startswith(".") and "tmp" in part for part in parts)
        old = any(part.startswith("step-") and part < newest for part in parts)
        return half or not (old or any(part.startswith(aside) for part in parts))

    return sorted(str(path) for path in (path.relative_to(run) for path in run.rglob("*")) if counts(path.parts))


def records(run: Path) -> list[dict[str, Any]]:
    """Every record of metrics.jsonl, in its order, without times. A line that a kill has cut off is no record.

    Which rank is slow is an event that says something of the machine, and not of the run.
    """
    path, found = run / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("event") != "straggler":
            found.append({key: value for key, value in record.items() if key not in _TIMES})
    return found


def summary(run: Path) -> dict[str, Any]:
    """summary.json without times; {} if there is none."""
    path = run / "summary.json"
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in _TIMES} if path.is_file() else {}


def resumed(run: Path) -> list[int]:
    """The steps at which the run card says that the run went on."""
    path = run / "run_card.json"
    return [entry["step"] for entry in json.loads(path.read_text()).get("resumed", [])] if path.is_file() else []
