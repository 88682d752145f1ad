"""The folder of a run: the only code that knows its files.

config.yaml    the resolved config            run_card.json  what the run is: versions, commit, layout, hashes, seed
metrics.jsonl  one object a line              summary.json   how it ended
telemetry.jsonl what was measured inside the model, one object a line
diagnosis.json where numbers were not finite, if a run stopped for that
wandb.json     the id of this run in Weights & Biases, if it was ever recorded there; wandb/ is wandb's own
checkpoints/   step-NNNNNNNN folders, and ``latest``, the name of the newest complete one. What begins with a dot is growing
               or going away, and nobody reads it; damaged-... and superseded-... were put aside
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import yaml

from ..checkpoints.record import RECORD
from ..errors import Problem, UserError
from ..files import remove_leftovers, rename_directory, unused_name, write_json, write_text
from ..printing import printable
from .json_log import JsonLog, finite

_LATEST = "latest"


class RunFolder:
    """Access to one run's records. Nothing is created before :meth:`claim`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.index_cache = self.path / "index"
        self._metrics = JsonLog(self.path / "metrics.jsonl")
        self._telemetry = JsonLog(self.path / "telemetry.jsonl")

    def check(self) -> None:
        """Refuse a path that cannot become a run's folder.

        Raises:
            UserError: it is a file or lies below one, may not be written, or is a folder of something else.
        """
        there = next(path for path in (self.path, *self.path.absolute().parents) if os.path.lexists(path))
        foreign = there == self.path and not self.config_path.is_file()
        if foreign and not (there.is_dir() and all(path.name.startswith(".") for path in there.iterdir())):
            why = "it exists and is not a run's folder"
        elif not there.is_dir():
            why = f"{there} is not a folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            why = f"{there} may not be written to"
        else:
            return
        raise UserError(Problem("run.dir", str(self.path), why, "choose another run.dir"))

    @property
    def config_path(self) -> Path:
        """Where the resolved config is."""
        return self.path / "config.yaml"

    @contextmanager
    def claim(self, config_yaml: str, wait: float = 0.0) -> Iterator[None]:
        """Make the folder, hold it against other processes, and write the config: the first thing a kill can leave.

        Raises:
            UserError: another process is training in it, and goes on for ``wait`` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:  # the lock goes with the process, however it ends
            deadline = time.monotonic() + wait
            try:
                while not _locked(lock) and time.monotonic() < deadline:
                    time.sleep(0.1)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                why = "another process is training in it"
                raise UserError(
                    Problem("run.dir", str(self.path), why, "wait for it, stop it, or choose another run.dir")
                ) from None
            except OSError:
                pass  # a file system without locks: nothing can be held, and nothing is known
            else:
                for place in (self.path, self.checkpoints):
                    remove_leftovers(place)
            if not self.config_path.is_file() or self.config_path.read_text(encoding="utf-8") != config_yaml:
                write_text(self.config_path, config_yaml)
            yield

    def begin(self, card: dict[str, Any], first_step: int, *, branches: bool = False) -> None:
        """Write the run card, and drop records of steps that will be run again, keeping a copy of them.

        The card stays the one that the run began with; what a later start has differently is added to its ``resumed``.
        Checkpoints after ``first_step`` belong to a future that is run again: they are put aside under another name.
        ``branches``: the steps up to ``first_step`` are another run's, and this one begins with the next.
        """
        if first_step and not branches and (self.path / "run_card.json").is_file():
            first = self.read_card()
            of_beginning = {"resumed": None, "digests": None, "parent": None}
            now = {name: new for name, _, new in differences({**first, **of_beginning}, {**card, **of_beginning})}
            card = {**first, "resumed": [*first.get("resumed", []), {"step": first_step, **now}]}
        write_json(self.path / "run_card.json", card)
        self._clear_leftovers()
        for path in self._checkpoints():
            if step_of_checkpoint(path.name) > first_step:
                path.rename(unused_name(self.checkpoints, f"superseded-{path.name}"))
        for log in (self._metrics, self._telemetry):
            log.keep_until(first_step)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl, as :meth:`JsonLog.append` does."""
        self._metrics.append(record)

    def append_telemetry(self, record: dict[str, Any]) -> None:
        """Add one line to telemetry.jsonl, as :meth:`JsonLog.append` does."""
        self._telemetry.append(record)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, with null for what is not finite."""
        write_json(self.path / "summary.json", finite(summary))

    def write_diagnosis(self, diagnosis: dict[str, Any]) -> None:
        """Write diagnosis.json: what was found where the numbers were no longer finite. Values are finite or null."""
        write_json(self.path / "diagnosis.json", diagnosis)

    def wandb_id(self) -> str:
        """The run's id in Weights & Biases: the one it has, or a new one, which is written before anybody hears of it.

        Raises:
            OSError: it cannot be written.
        """
        path = self.path / "wandb.json"
        with suppress(UserError):  # a damaged one: a record more is a small loss
            known = self._read(path.name, lambda text: _mapping(json.loads(text))) if path.is_file() else {}
            if isinstance(known.get("id"), str):
                return str(known["id"])
        new = secrets.token_hex(4)
        write_json(path, {"id": new})
        return new

    def put_wandb_aside(self, identity: str) -> None:
        """Move offline records of earlier starts to where ``wandb sync`` of the folder does not look; a new one has it all."""
        wandb = self.path / "wandb"
        for old in sorted(wandb.glob(f"offline-run-*-{identity}")):
            (wandb / "superseded").mkdir(exist_ok=True)
            old.rename(unused_name(wandb / "superseded", old.name))

    def records(self) -> list[Path]:
        """The files that say what the run is and what became of it, those that are there."""
        logs = (self._metrics.path, self._telemetry.path)
        names = ("run_card.json", "summary.json", "diagnosis.json")
        return [path for path in (self.config_path, *(self.path / name for name in names), *logs) if path.is_file()]

    def read_config(self) -> dict[str, Any]:
        """The resolved config as plain values."""
        return self._read("config.yaml", lambda text: _mapping(yaml.safe_load(text)))

    def read_card(self) -> dict[str, Any]:
        """The run card."""
        return self._read("run_card.json", lambda text: _mapping(json.loads(text)))

    def read_summary(self) -> dict[str, Any] | None:
        """How the run ended, or None where it has not."""
        return (
            self._read("summary.json", lambda text: _mapping(json.loads(text)))
            if (self.path / "summary.json").is_file()
            else None
        )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every record of metrics.jsonl; none if nothing was recorded yet."""
        return self._read_log(self._metrics)

    def read_telemetry(self) -> list[dict[str, Any]]:
        """Every record of telemetry.jsonl; none if nothing was measured yet."""
        return self._read_log(self._telemetry)

    def _read_log(self, log: JsonLog) -> list[dict[str, Any]]:
        if not log.path.is_file():
            return []
        return self._read(log.path.name, lambda text: [_mapping(json.loads(line)) for line in text.splitlines()])

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

        A pointer that holds nothing, as after a disk fault, is no pointer: the newest folder counts.

        Raises:
            UserError: the pointer names a checkpoint that is not there.
        """
        pointer = self.checkpoints / _LATEST
        name = pointer.read_text(encoding="utf-8", errors="replace").strip(" \n\0") if pointer.is_file() else ""
        if not name:
            return next((path.name for path in reversed(self._checkpoints())), None)
        if not _NAME.fullmatch(name) or not (self.checkpoints / name).is_dir():
            mend = "restore that folder, or write the name of another checkpoint into the file"
            raise UserError(Problem(str(pointer), printable(name[:80]), "there is no such checkpoint", mend))
        return name

    def checkpoint_names(self) -> list[str]:
        """The checkpoints to go on from: the newest complete one, then older ones."""
        latest = self.latest_checkpoint()
        return [
            path.name
            for path in reversed(self._checkpoints())
            if latest and step_of_checkpoint(path.name) <= step_of_checkpoint(latest)
        ]

    def put_aside(self, damaged: list[str], use: str) -> None:
        """Go on from an older checkpoint, and keep those that are damaged under other names."""
        write_text(self.checkpoints / _LATEST, use)
        for name in damaged:
            (self.checkpoints / name).rename(unused_name(self.checkpoints, f"damaged-{name}"))

    def draft_checkpoint(self, step: int) -> Path:
        """The folder in which a checkpoint grows; no reader looks at it."""
        return self.checkpoints / f".{checkpoint_name(step)}.tmp"

    def drop_draft(self, step: int) -> None:
        """Remove a draft, and one that an earlier attempt left."""
        shutil.rmtree(self.draft_checkpoint(step), ignore_errors=True)

    def commit_checkpoint(self, step: int) -> None:
        """Give a finished draft its name, and point to it. No later checkpoint is there: :meth:`begin` has put them aside."""
        name = checkpoint_name(step)
        if (self.checkpoints / name).exists():  # whole, by an earlier attempt that could not write the pointer
            self.drop_draft(step)
        else:
            rename_directory(self.draft_checkpoint(step), self.checkpoints / name)
        write_text(self.checkpoints / _LATEST, name)

    def prune(self, keep_last: int, keep_every: int, keep: Collection[int] = ()) -> None:
        """Remove old checkpoints; also where a kill came between the last save and this.

        The newest ``keep_last`` stay, those whose step is a multiple of ``keep_every``, and those of the steps ``keep``.
        """
        for old in self._checkpoints()[:-keep_last]:
            step = step_of_checkpoint(old.name)
            if step not in keep and (not keep_every or step % keep_every):
                going = self.checkpoints / f".{old.name}.removed"  # half a checkpoint has no name that anybody reads
                old.rename(going)
                if going.is_symlink():  # somebody has it on another disk, where it is theirs to remove
                    going.unlink()
                else:
                    shutil.rmtree(going)

    def _checkpoints(self) -> list[Path]:
        """Complete checkpoints, the oldest first."""
        found = [path for path in self.checkpoints.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: step_of_checkpoint(path.name))

    def _clear_leftovers(self) -> None:
        """Remove what a kill left half written or half removed."""
        for path in self.checkpoints.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)


_NAME = re.compile(r"step-\d{8,}")


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def checkpoint_name(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of_checkpoint(name: str) -> int:
    """The step that a checkpoint's folder name says."""
    return int(name.removeprefix("step-"))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not what was written")
    return value


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the fields in which two nested mappings differ, with both values."""
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


def checkpoints_at(folder: Path) -> list[Path]:
    """The checkpoint that a folder is, or those of the run that it is, the newest first.

    Raises:
        UserError: it is neither.
    """
    folder = folder.expanduser()
    why = "it is no checkpoint, and no run with one"
    try:
        if (folder / RECORD).is_file():
            return [folder]
        run = RunFolder(folder)
        if names := run.checkpoint_names():
            return [run.checkpoints / name for name in names]
    except OSError as error:  # a name that cannot be one, a folder that may not be entered
        why = f"it cannot be looked into ({error.strerror})"
    raise UserError(Problem("the folder", str(folder), why, "give a run's folder, or checkpoints/step-NNNNNNNN in it"))
