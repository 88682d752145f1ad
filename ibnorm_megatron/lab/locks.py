"""Locks that go with the process that holds them, however it ends; and what is known where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ..errors import Problem, RunFailure

#: What a file system answers that has no locks at all (some Lustre and FUSE mounts).
_NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")}


def now() -> str:
    """ISO 8601, UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def held(file: IO[Any], how: int) -> Iterator[bool]:
    """Hold a lock on an open file within the block, and wait for it; False where the file system has no locks."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Whether a process holds this lock now. Nothing is written; where there is no such file, or are no locks, it is not."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    return False


@dataclass(frozen=True)
class Holder:
    """Who trains a trial now."""

    host: str
    process: int
    since: str


class Claim:
    """A trial that is this process's, until :meth:`release` or the end of it and of all that inherited :attr:`descriptor`."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @property
    def descriptor(self) -> int:
        """What a child has to inherit, so that a trial whose child outlives this process counts as taken."""
        return self._file.fileno()

    def release(self) -> None:
        """Let others have it, whoever inherited it."""
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


class Claims:
    """Which trials of a study are being trained: a locked file for each.

    Attributes:
        locks: whether the file system has locks. If not, every claim is granted, and only one process may run the study,
            or each its own share of it.

    Raises:
        RunFailure: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "claims"
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._folder / ".probe", "a") as probe, held(probe, fcntl.LOCK_SH) as locks:
                self.locks = locks

    def take(self, key: str) -> Claim | None:
        """Claim a trial, or None where a living process has it.

        Raises:
            RunFailure: the folder cannot be written.
        """
        with self._writing(), ExitStack() as opened:
            file = opened.enter_context(open(self._folder / f"{key}.lock", "a+", encoding="utf-8"))
            try:
                if self.locks:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            file.truncate(0)
            file.write(json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), now()))))
            file.flush()
            opened.pop_all()  # the claim closes it
            return Claim(file)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why, mend = f"it cannot be written ({error.strerror})", "mend that, or give another dir; the same command goes on"
            raise RunFailure(Problem("the study's folder", str(self._folder.parent), why, mend)) from None


def holder(folder: Path, key: str) -> Holder | None:
    """Who trains a trial of the study in ``folder``, or None where nobody does. Only reads."""
    path = folder / "claims" / f"{key}.lock"
    if not is_held(path):
        return None
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # between the lock and what is written then
        return Holder("unknown", 0, "")
