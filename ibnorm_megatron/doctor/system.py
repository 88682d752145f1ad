"""The system: its kind, Python, clock, locale, cores, memory, and the limits that a process is given."""

from __future__ import annotations

import locale
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from .. import __version__
from ..train.run_card import git_state
from .finding import Finding, gibibytes, ok, problem, warning

AREA = "system"

#: Memory below which a rank is killed while it imports libraries, and below which only small models fit.
_NO_MEMORY, _LITTLE_MEMORY = 2**30, 4 * 2**30

#: What a process needs besides its data: files of shards and indices, sockets to other ranks, libraries.
_FEW_FILES, _NO_FILES = 1024, 256


def kind() -> Iterator[Finding]:
    """Operating system, container, program and Python."""
    name = platform.system()
    if name == "Linux":
        try:
            name = platform.freedesktop_os_release()["PRETTY_NAME"]
        except OSError:  # a file that small images lack
            name = "Linux"
    container = next((mark for mark in ("/.dockerenv", "/run/.containerenv") if Path(mark).exists()), None)
    inside = ", in a container" if container or "KUBERNETES_SERVICE_HOST" in os.environ else ""
    says = f"{name}, {platform.system()} {platform.release()}, {platform.machine()}{inside}"
    if platform.system() == "Linux":
        yield ok(AREA, "operating system", says)
    else:
        yield warning(AREA, "operating system", says, "train on Linux: nothing else is tested")
    python = f"{platform.python_implementation()} {platform.python_version()}, {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield ok(AREA, "Python", python)
    else:
        yield problem(AREA, "Python", python, "install Python 3.11, 3.12 or 3.13")
    git = git_state()
    commit = f", commit {git['commit'][:12]}{' with changes' if git['changed'] else ''}" if git else ", no git repository"
    yield ok(AREA, "ibnorm_megatron", f"{__version__}{commit}", git=git)


def clock() -> Iterator[Finding]:
    """A clock that goes behind the files it is compared with."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parent.glob("*.py"))
    now = time.time()
    says = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if now < newest - 60:
        mend = "set the clock: certificates are refused and file times mislead"
        yield warning(AREA, "clock", f"{says}, before the program's own files were written", mend)
    else:
        yield ok(AREA, "clock", says)


def language(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether text is UTF-8 wherever nobody says what it is."""
    found = {"files": sys.getfilesystemencoding(), "text": locale.getpreferredencoding(False)}
    says = ", ".join(f"{what}: {encoding}" for what, encoding in found.items())
    if all(encoding.lower().replace("-", "") == "utf8" for encoding in found.values()):
        yield ok(AREA, "locale", says, **found)
    else:
        said = environ.get("LC_ALL") or environ.get("LANG") or "not set"
        yield warning(AREA, "locale", f"{says} (LC_ALL or LANG: {said})", "run: export LC_ALL=C.UTF-8", **found)


def cores(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Cores of this process, and how many threads a rank takes."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    says = f"{usable} of {os.cpu_count()} cores" + (f", {quota:.1f} by the container's limit" if quota else "")
    have = min(usable, quota or usable)
    if have < 1:
        yield warning(AREA, "cores", says, "give the container one core at least", cores=usable, quota=quota)
    else:
        yield ok(AREA, "cores", says, cores=usable, quota=quota)
    given = environ.get("OMP_NUM_THREADS")
    if given is None:
        yield ok(AREA, "threads", "OMP_NUM_THREADS is not set: every rank takes one thread")
    elif not given.isdecimal() or int(given) < 1:
        yield warning(AREA, "threads", f"OMP_NUM_THREADS is {given!r}, no number", "run: export OMP_NUM_THREADS=1")
    elif int(given) > have:
        mend = f"run: export OMP_NUM_THREADS={max(1, int(have))}, divided by the ranks of this machine"
        yield warning(AREA, "threads", f"OMP_NUM_THREADS is {given}, more than the cores", mend)
    else:
        yield ok(AREA, "threads", f"OMP_NUM_THREADS is {given}")


def memory() -> Iterator[Finding]:
    """Memory of the machine, or what its container leaves of it."""
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    says = f"{gibibytes(free)} free of {gibibytes(total)}"
    limit = _cgroup_memory()
    if limit is not None and limit[0] < total:
        total, free = limit[0], min(free, limit[0] - limit[1])
        says += f", {gibibytes(free)} free of {gibibytes(total)} by the container's limit"
    data = {"free_bytes": free, "total_bytes": total}
    if free < _NO_MEMORY:
        yield problem(AREA, "memory", says, "free some: a rank takes about 1 GiB before it has a model", **data)
    elif free < _LITTLE_MEMORY:
        yield warning(AREA, "memory", says, "train small models with few ranks here, or free some", **data)
    else:
        yield ok(AREA, "memory", says, **data)


def limits() -> Iterator[Finding]:
    """What ulimit says."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    shown = "unlimited" if files == resource.RLIM_INFINITY else str(files)
    if files != resource.RLIM_INFINITY and files < _FEW_FILES:
        found = problem if files < _NO_FILES else warning
        yield found(AREA, "open files", f"{shown} at once", f"run: ulimit -n {64 * _FEW_FILES}", files=files)
    else:
        yield ok(AREA, "open files", f"{shown} at once", files=files)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    shown = "unlimited" if locked == resource.RLIM_INFINITY else gibibytes(locked)
    if locked != resource.RLIM_INFINITY and Path("/dev/infiniband").exists():
        mend = "run: ulimit -l unlimited (in a container: --ulimit memlock=-1)"
        yield warning(AREA, "locked memory", f"{shown}, and InfiniBand locks what it sends", mend)
    else:
        yield ok(AREA, "locked memory", shown)
    for name, number, flag in (("address space", resource.RLIMIT_AS, "v"), ("size of a file", resource.RLIMIT_FSIZE, "f")):
        most = resource.getrlimit(number)[0]
        if most != resource.RLIM_INFINITY:
            yield warning(AREA, name, f"limited to {gibibytes(most)}", f"run: ulimit -{flag} unlimited", bytes=most)


def _cgroup(name: str) -> str | None:
    """A file of this process's own control group (version 2)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            for folder in (Path("/sys/fs/cgroup") / line[3:].lstrip("/"), Path("/sys/fs/cgroup")):
                if (folder / name).is_file():
                    return (folder / name).read_text().strip()
    return None


def _cgroup_cores() -> float | None:
    try:
        most, period = (_cgroup("cpu.max") or "max 1").split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)


def _cgroup_memory() -> tuple[int, int] | None:
    try:
        most, used = _cgroup("memory.max"), _cgroup("memory.current")
        return None if most in (None, "max") or used is None else (int(str(most)), int(used))
    except (OSError, ValueError):
        return None
