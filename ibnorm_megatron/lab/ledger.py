"""The ledger of a study: one JSON line for each training that ended, in the order in which they did. Lines are only added.

    {"ledger": "ibnorm_megatron.lab", "version": 1}
    {"trial": {"stage": "tune", "arm": "layernorm", ...}, "key": "0123456789abcdef", "status": "complete", ...}

A trial may have several lines, one for each time that it failed and the one with which it was done.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import Problem, RunFailure, UserError
from ..files import sync_directory
from .locks import held
from .trials import Entry

NAME = "ledger.jsonl"

#: Raised by whoever changes what a line holds. A field more or less is another version, so that none is misread.
VERSION = 1

_HEADER = {"ledger": "ibnorm_megatron.lab", "version": VERSION}
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


class Ledger:
    """The ledger in a study's folder. Nothing is created before the first :meth:`append`.

    Attributes:
        torn: whether the last :meth:`read` left out the end of the file, because a kill or a full disk had cut a line off.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.torn = False

    def stamp(self) -> tuple[int, int]:
        """What changes with every line; equal stamps, equal entries."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (found.st_size, found.st_mtime_ns)

    def read(self) -> list[Entry]:
        """All entries, the oldest first; :func:`latest` says what counts of each trial.

        Raises:
            UserError: it cannot be read, is of another version, or holds what is no entry; every such line is named.
        """
        try:
            with open(self.path, "rb") as file, held(file, fcntl.LOCK_SH):
                found = file.read()
        except FileNotFoundError:
            found = b""
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
            raise UserError(Problem("the ledger", str(self.path), why, "mend that, or give another dir")) from None
        whole, _, rest = found.rpartition(b"\n")
        self.torn = bool(rest)
        return self._parsed(whole.split(b"\n")) if whole else []

    def _parsed(self, lines: list[bytes]) -> list[Entry]:
        try:
            header = json.loads(lines[0])
        except ValueError:
            header = None
        if header != _HEADER:
            said = lines[0][:80].decode("utf-8", "replace")
            mend = f"use the program that wrote it, or another dir; a ledger of this one begins with {json.dumps(_HEADER)}"
            raise UserError(Problem("the first line of the ledger", said, f"{self.path} is of another version", mend))
        entries, problems = [], []
        for number, line in enumerate(lines[1:], start=2):
            try:
                entries.append(_ENTRY.validate_json(line))
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "it"
                why = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
                mend = "take that line out, and the same study records its run again without training it"
                problems.append(Problem(f"line {number} of {self.path}", "damaged", why, mend))
        if problems:
            raise UserError(*problems)
        return entries

    def append(self, entry: Entry) -> None:
        """Add an entry: one write, durable when this returns. What a kill left of a line before it goes.

        Raises:
            RunFailure: it could not be written; the ledger is as it was.
        """
        line = json.dumps(asdict(entry), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b", buffering=0) as file, held(file, fcntl.LOCK_EX) as alone:
                end = _end_of_last_line(file.fileno())
                if alone:  # or else another process may be writing what looks torn
                    file.truncate(end)
                new = (line if end else json.dumps(_HEADER) + "\n" + line).encode("utf-8")
                try:
                    if file.write(new) != len(new):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        file.truncate(end)
                    raise
            if not end:
                sync_directory(self.path.parent)
        except OSError as error:
            why = f"it cannot be written ({error.strerror})"
            mend = "mend that; the same command goes on, and records what ended meanwhile"
            raise RunFailure(Problem("the ledger", str(self.path), why, mend)) from None


def _end_of_last_line(descriptor: int) -> int:
    """Bytes up to the last line end, 0 without one. A torn line is no longer than what is looked through."""
    size = os.fstat(descriptor).st_size
    block = 1 << 16
    at = size
    while at > 0:
        start = max(0, at - block)
        found = os.pread(descriptor, at - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def latest(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The last entry of every key, in the order of their first ones: a later one supersedes those before it."""
    return {entry.key: entry for entry in entries}
