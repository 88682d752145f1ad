"""A file of JSON objects, one a line, each of a step: what a run records as it goes on. No torch."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import unused_name, write_text


class JsonLog:
    """Appends records with a ``step`` to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: list[str] = []

    def append(self, record: dict[str, Any]) -> None:
        """Add one line. JSON has no infinity and no NaN: they become null.

        A line that cannot be written, as on a full disk, is kept and written with a later one; nothing is half written.
        """
        self._unwritten.append(json.dumps(finite(record), allow_nan=False) + "\n")
        with suppress(OSError), open(self.path, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            lines = "".join(self._unwritten).encode("utf-8")
            try:
                if file.write(lines) != len(lines):
                    raise OSError("the disk took a part")
            except OSError:
                file.truncate(end)
                raise
            self._unwritten.clear()

    def keep_until(self, step: int) -> None:
        """Drop the records of later steps, which will be run again, and keep a copy of them beside the file."""
        if not self.path.is_file():
            return
        kept, dropped = [], []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            (kept if _step_of(line) <= step else dropped).append(line)
        if dropped:
            write_text(unused_name(self.path.parent, f"{self.path.stem}.superseded", self.path.suffix), "".join(dropped))
            write_text(self.path, "".join(kept))


def finite(value: Any) -> Any:
    """Plain values with None for every number in them that is not finite."""
    if isinstance(value, dict):
        return {key: finite(of_key) for key, of_key in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: str) -> float:
    """The step of a line; a line cut off by a kill belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
