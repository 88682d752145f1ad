"""Indices on disk: built once by whoever comes first, found by everybody else, removed when nobody uses them.

No process talks to another. A lock (flock) on the cache's folder lets one build while the others wait, and then find what it
built; a lock on the index itself says that somebody uses it. Where ranks do not share a disk each machine builds its own. Where
they share one but no locks (some network file systems), two may build the same index at once: they write the same bytes under
names of their own, and the second to finish takes what the first has put in place. Without locks nobody knows who uses what, so
nothing is removed there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from ..errors import Problem, UserError
from ..files import rename_directory
from .index import RECORD, VERSION, EpochIndex

_ATTEMPTS = 3


class IndexCache:
    """The indices of one stream's epochs.

    Two are kept open: that of the epoch asked for, and the one asked for before. So whoever is behind finds its own.

    Args:
        folder: for this data, split and sequence length only; made when needed.
        seed: part of the indices' names. Those of other seeds are left alone.
        build: makes the index of an epoch.
    """

    def __init__(self, folder: Path, seed: int, build: Callable[[int], EpochIndex]) -> None:
        self._folder, self._seed, self._build = folder, seed, build
        self._open: dict[int, EpochIndex] = {}  # the one used last is the last
        self._in_use: dict[int, int] = {}  # files that are locked, by epoch
        self._turn = threading.Lock()  # a loader's threads
        weakref.finalize(self, _close_all, self._in_use)

    def epoch(self, epoch: int) -> EpochIndex:
        """The index of an epoch.

        Raises:
            UserError: it is not there, and cannot be written.
        """
        with self._turn:
            found = self._open.pop(epoch, None) or self._find(epoch)
            self._open[epoch] = found
            return found

    def close(self) -> None:
        """Let go of all indices; another :meth:`epoch` opens again."""
        with self._turn:
            for epoch in [*self._open]:
                self._let_go(epoch)

    def _find(self, epoch: int) -> EpochIndex:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _lock(self._folder / ".lock") as locked:
                if locked:
                    self._sweep()
                found = self._find_or_build(epoch)
                for before in [*self._open][:-1]:
                    self._let_go(before)
                if locked:
                    self._remove_unused(keep={*self._open, epoch})
                return found
        except OSError as error:
            why = f"an index of the order of samples cannot be kept there ({error.strerror or error})"
            mend = "make room, or name another folder by data.index_cache"
            raise UserError(Problem("the index cache", str(self._folder), why, mend)) from error

    def _find_or_build(self, epoch: int) -> EpochIndex:
        for _ in range(_ATTEMPTS):
            if found := self._read(epoch):
                return found
            try:
                if self._path(epoch).exists():
                    if found := self._read(epoch):  # somebody without our lock finished just now
                        return found
                    self._remove(self._path(epoch))  # damaged, or of another version
                self._write(epoch)
            except FileNotFoundError:  # somebody without our lock took a folder away: the index is there, or is built again
                continue
        if found := self._read(epoch):
            return found
        raise OSError("what was written does not read back")

    def _path(self, epoch: int) -> Path:
        return self._folder / f"seed{self._seed}-epoch{epoch}"

    def _read(self, epoch: int) -> EpochIndex | None:
        """Open an index and hold it; None if it is not there, or damaged."""
        path = self._path(epoch)
        try:
            handle = os.open(path / RECORD, os.O_RDWR)
        except OSError:
            return None
        try:
            record = json.loads(os.read(handle, 1 << 16))
            found = EpochIndex.read(path, record["files"]) if record["version"] == VERSION else None
        except (ValueError, KeyError, TypeError):
            found = None
        if found is None:
            os.close(handle)
            return None
        _try_lock(handle, fcntl.LOCK_SH)
        self._in_use[epoch] = handle
        return found

    def _write(self, epoch: int) -> None:
        final = self._path(epoch)
        temporary = self._temporary(final.name)
        temporary.mkdir()
        self._build(epoch).write(temporary)
        try:
            rename_directory(temporary, final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(temporary, ignore_errors=True)  # another builder was faster

    def _let_go(self, epoch: int) -> None:
        del self._open[epoch]
        os.close(self._in_use.pop(epoch))  # and the lock with it

    def _remove_unused(self, keep: set[int]) -> None:
        """Remove indices of this seed that nobody holds; a run that goes back to one builds the same again."""
        for path in set(self._folder.glob(f"seed{self._seed}-epoch*")) - {self._path(epoch) for epoch in keep}:
            try:
                handle = os.open(path / RECORD, os.O_RDWR)
            except OSError:
                continue
            try:
                if _try_lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._remove(path)
            finally:
                os.close(handle)

    def _remove(self, path: Path) -> None:
        # Renamed first: what has its own name is complete, even if a kill stops the removal.
        shutil.rmtree(path.rename(self._temporary(path.name)), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what kills on this machine have left; nobody else of it is building, for the lock is ours."""
        for leftover in self._folder.glob(f".*.tmp-{_machine()}-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _temporary(self, name: str) -> Path:
        return self._folder / f".{name}.tmp-{_machine()}-{os.getpid()}-{threading.get_ident()}"


def _close_all(handles: dict[int, int]) -> None:
    while handles:
        os.close(handles.popitem()[1])


def _machine() -> str:
    return xxhash.xxh3_64_hexdigest(socket.gethostname().encode())


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a file's lock, waiting for it; false where the file system has none. It goes with the process, however it ends."""
    with open(path, "a") as file:
        yield _try_lock(file.fileno(), fcntl.LOCK_EX)


def _try_lock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except OSError:
        return False
    return True
