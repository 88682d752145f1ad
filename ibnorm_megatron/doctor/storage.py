"""Shared memory, and a folder for runs: room, speed, and whether writing there is as safe as checkpoints rely on."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from ..files import rename_directory, write_text
from .finding import Finding, gibibytes, ok, problem, warning

AREA = "storage"

_SHARED = Path("/dev/shm")  # noqa: S108 (its size is asked, and no file made in it)

#: Docker gives 64 MiB, which NCCL fills with a few ranks; other things need next to none.
_SHARED_WITH_GPUS, _SHARED_ALONE = 2**30, 16 * 2**20

_LITTLE_ROOM, _NO_ROOM = 20 * 2**30, 2**30

#: Seconds for all writing that is timed, and bytes at most.
_WRITING, _WRITTEN = 1.5, 64 * 2**20

#: A file system that answers an fsync slower than this makes small records slow.
_SLOW_SYNC = 0.2


def shared_memory(gpu: bool, where: Path = _SHARED) -> Iterator[Finding]:
    """Size of /dev/shm, through which ranks of one machine speak to each other where NCCL does it."""
    if not where.is_dir():
        mend = "mount a tmpfs there (in a container: --shm-size=8g)"
        yield warning(AREA, str(where), "there is none", mend)
        return
    usage = shutil.disk_usage(where)
    says, data = (
        f"{gibibytes(usage.free)} free of {gibibytes(usage.total)}",
        {"total_bytes": usage.total, "free_bytes": usage.free},
    )
    mend = "make it larger: --shm-size=8g or --ipc=host for docker, an emptyDir with medium: Memory for Kubernetes"
    if not os.access(where, os.W_OK):
        yield problem(AREA, str(where), f"{says}, and may not be written to", "run: chmod 1777 /dev/shm", **data)
    elif usage.free < (_SHARED_WITH_GPUS if gpu else _SHARED_ALONE):
        yield warning(AREA, str(where), says, mend, **data)
    else:
        yield ok(AREA, str(where), says, **data)


def folder(where: Path) -> Iterator[Finding]:
    """Everything that a run's folder in ``where`` needs. What is written for that is removed."""
    name = f"folder {where}"
    mend = "make it, or name another with --dir"
    if not where.exists():
        yield problem(AREA, name, "there is no such folder", mend)
        return
    if not where.is_dir():
        yield problem(AREA, name, "it is not a folder", mend)
        return
    yield from _room(where)
    try:
        draft = Path(tempfile.mkdtemp(prefix=".ibnorm-doctor-", dir=where))
    except OSError as error:
        mend = "mend that, or name another folder with --dir"
        yield problem(AREA, name, f"nothing can be written there ({error.strerror})", mend)
        return
    try:
        for look in (_speed, _replacing, _locking, _mapping):
            yield from look(draft)
    except OSError as error:
        mend = "mend that, or name another folder with --dir"
        yield problem(AREA, name, f"nothing more can be written there ({error.strerror})", mend)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _room(where: Path) -> Iterator[Finding]:
    usage = shutil.disk_usage(where)
    kind, options = _file_system(where)
    says = f"{gibibytes(usage.free)} free of {gibibytes(usage.total)}, {kind}"
    data = {"free_bytes": usage.free, "total_bytes": usage.total, "file_system": kind}
    if "ro" in options:
        yield problem(AREA, "room", f"{says}, read-only", "mount it for writing, or name another folder with --dir", **data)
    elif usage.free < _NO_ROOM:
        yield problem(AREA, "room", says, "make room: a checkpoint takes 12 bytes a parameter", **data)
    elif usage.free < _LITTLE_ROOM:
        yield warning(AREA, "room", says, "make room for larger models: a checkpoint takes 12 bytes a parameter", **data)
    elif kind in ("tmpfs", "ramfs"):
        yield warning(AREA, "room", f"{says}: it is memory, and gone with the machine", "keep runs on a disk", **data)
    else:
        yield ok(AREA, "room", says, **data)
    nodes = os.statvfs(where)
    if nodes.f_files and nodes.f_favail < 10_000:
        mend = "remove small files there, or name another folder with --dir"
        yield warning(AREA, "room for files", f"{nodes.f_favail} more can be made", mend, inodes=nodes.f_favail)


def _file_system(where: Path) -> tuple[str, set[str]]:
    """The kind and options of the mount that a folder is on, as Linux tells them."""
    best, found = -1, ("unknown file system", set[str]())
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        if where.resolve().is_relative_to(point) and len(point) >= best:  # of two mounts on one point the later counts
            best, found = len(point), (right.split()[0], set(left.split()[5].split(",")))
    return found


def _speed(draft: Path) -> Iterator[Finding]:
    """MB/s of a synced write, and how long a small one takes."""
    chunk, written, started = os.urandom(2**20), 0, time.perf_counter()
    with open(draft / "large", "wb") as file:
        while written < _WRITTEN and time.perf_counter() - started < _WRITING / 2:
            written += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    rate = written / (time.perf_counter() - started)
    times, started = [], time.perf_counter()
    while len(times) < 20 and (not times or time.perf_counter() - started < _WRITING / 2):
        before = time.perf_counter()
        with open(draft / "small", "ab") as file:
            file.write(b"a record\n")
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - before)
    small = median(times)
    says = f"{rate / 1e6:,.0f} MB/s, and {1000 * small:.1f} ms for a small record; both with fsync"
    data = {"bytes_per_second": rate, "fsync_seconds": small}
    if small > _SLOW_SYNC:
        yield warning(AREA, "speed", says, "keep runs on a faster disk, or write records less often (log.interval)", **data)
    else:
        yield ok(AREA, "speed", says, **data)


def _replacing(draft: Path) -> Iterator[Finding]:
    """Files and folders that take the place of others in one step."""
    mend = "name another folder with --dir: checkpoints rely on it"
    try:
        for text in ("old", "new"):
            write_text(draft / "record", text)
        (draft / "growing").mkdir()
        write_text(draft / "growing" / "part", "whole")
        rename_directory(draft / "growing", draft / "whole")
        kept = (draft / "record").read_text() == "new" and (draft / "whole" / "part").read_text() == "whole"
        left = sorted(path.name for path in draft.iterdir() if path.name.startswith("."))
    except OSError as error:
        yield problem(AREA, "renaming", f"a file cannot take another's place ({error.strerror})", mend)
        return
    if kept and not left:
        yield ok(AREA, "renaming", "files and folders take their final names in one step")
    else:
        yield problem(AREA, "renaming", "what was renamed is not what was written", mend)


def _locking(draft: Path) -> Iterator[Finding]:
    """Whether a second process would notice that a run's folder is in use."""
    mend = "start no two runs in one folder: nothing will stop the second"
    with open(draft / "lock", "w") as first, open(draft / "lock", "w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield warning(AREA, "locks", f"this file system has none ({error.strerror})", mend)
            return
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield ok(AREA, "locks", "a folder in use is told from one that is not")
        else:
            yield warning(AREA, "locks", "they lock nobody out", mend)


def _mapping(draft: Path) -> Iterator[Finding]:
    """Shards and indices are mapped, not read."""
    (draft / "mapped").write_bytes(b"tokens")
    try:
        with open(draft / "mapped", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            right = mapped[:] == b"tokens"
    except OSError as error:
        mend = "keep prepared data and runs elsewhere: shards are mapped"
        yield problem(AREA, "mapped files", f"not possible there ({error.strerror})", mend)
        return
    if not right:
        yield problem(AREA, "mapped files", "they do not show what was written", "keep prepared data and runs elsewhere")
    else:
        yield ok(AREA, "mapped files", "as they should be")
