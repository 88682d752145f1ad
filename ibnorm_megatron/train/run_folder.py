"""The folder of a run: the only code that knows its files.

config.yaml    the resolved config            run_card.json  what the run is: versions, commit, layout, hashes, seed
metrics.jsonl  one object a line              summary.json   how it ended
checkpoints/   step-NNNNNNNN folders, and ``latest``, the name of the newest complete one
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import Problem, UserError
from ..files import rename_directory, write_json, write_text

_LATEST = "latest"


class RunFolder:
    """Access to one run's records. Nothing is created before :meth:`claim`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.index_cache = self.path / "index"
        self._metrics = self.path / "metrics.jsonl"

    def check(self) -> None:
        """Refuse a folder that holds something else than a run.

        Raises:
            UserError: the path is a file, or a folder with files but without a run's config.
        """
        foreign = self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir())
        if self.path.is_file() or (foreign and not self.config_path.is_file()):
            raise UserError(Problem("run.dir", str(self.path), "it exists and is not a run's folder", "choose another run.dir"))

    @property
    def config_path(self) -> Path:
        """Where the resolved config is."""
        return self.path / "config.yaml"

    def claim(self, config_yaml: str) -> None:
        """Make the folder and write the config: the first thing in it, so that a kill leaves a run's folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config_path, config_yaml)

    def begin(self, card: dict[str, Any], first_step: int) -> None:
        """Write the run card, and drop metrics of steps that will be run again, keeping a copy of them."""
        write_json(self.path / "run_card.json", card)
        if not self._metrics.is_file():
            return
        kept, dropped = [], []
        for line in self._metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            (kept if _step_of(line) <= first_step else dropped).append(line)
        if dropped:
            copies = len(list(self.path.glob("metrics.superseded-*.jsonl")))
            write_text(self.path / f"metrics.superseded-{copies + 1}.jsonl", "".join(dropped))
            write_text(self._metrics, "".join(kept))

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        write_json(self.path / "summary.json", summary)

    def read_config(self) -> dict[str, Any]:
        """The resolved config as plain values."""
        return self._read("config.yaml", yaml.safe_load)

    def read_card(self) -> dict[str, Any]:
        """The run card."""
        return self._read("run_card.json", json.loads)

    def read_summary(self) -> dict[str, Any] | None:
        """How the run ended, or None where it has not."""
        return self._read("summary.json", json.loads) if (self.path / "summary.json").is_file() else None

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every record of metrics.jsonl."""
        return self._read("metrics.jsonl", lambda text: [json.loads(line) for line in text.splitlines()])

    def _read(self, name: str, parse: Callable[[str], Any]) -> Any:
        path = self.path / name
        try:
            return parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
            raise UserError(Problem("the run folder's file", str(path), why, "give the folder of a run")) from None
        except (ValueError, yaml.YAMLError):
            raise UserError(Problem("the run folder's file", str(path), "it is damaged", "restore it or run again")) from None

    def latest_checkpoint(self) -> str | None:
        """Name of the newest complete checkpoint, or None.

        Raises:
            UserError: the pointer names a checkpoint that is not there.
        """
        pointer = self.checkpoints / _LATEST
        if not pointer.is_file():
            return None
        name = pointer.read_text(encoding="utf-8").strip()
        if not (self.checkpoints / name).is_dir():
            mend = "restore that folder, or write the name of another checkpoint into the file"
            raise UserError(Problem(str(pointer), name or "empty", "there is no such checkpoint", mend))
        return name

    def draft_checkpoint(self, step: int) -> Path:
        """The folder in which a checkpoint grows; no reader looks at it."""
        return self.checkpoints / f".{checkpoint_name(step)}.tmp"

    def begin_checkpoint(self, step: int) -> None:
        """Make the draft's folder, empty; a draft that a kill left behind is removed."""
        shutil.rmtree(self.draft_checkpoint(step), ignore_errors=True)
        self.draft_checkpoint(step).mkdir(parents=True)

    def commit_checkpoint(self, step: int, keep_last: int) -> None:
        """Give a finished draft its name, point to it, and remove all but the newest ``keep_last``."""
        name = checkpoint_name(step)
        shutil.rmtree(self.checkpoints / name, ignore_errors=True)  # the same step, run again after a resume
        rename_directory(self.draft_checkpoint(step), self.checkpoints / name)
        write_text(self.checkpoints / _LATEST, name)
        for old in sorted(self.checkpoints.glob("step-*"))[:-keep_last]:
            shutil.rmtree(old)


def checkpoint_name(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def _step_of(line: str) -> float:
    """The step of a metrics line; a line cut off by a kill belongs to no step that is kept."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the fields in which two nested mappings differ, with both values."""
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
