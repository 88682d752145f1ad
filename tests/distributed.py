"""Running real processes from tests: commands as a user would type them; and, sooner, ranks and programs that are forked."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .workers.forked import BIN, ROOT, Forked, environment
from .workers.ranks import ranks

__all__ = ["BIN", "ROOT", "command", "environment", "python", "run_ranks", "torchrun"]


def command(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository and return what it did."""
    given = [str(argument) for argument in arguments]
    return subprocess.run(given, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def python(module: str, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ARGUMENTS`` in the repository and return what it did; see :mod:`.workers.forked`."""
    with tempfile.TemporaryDirectory() as folder:
        return Forked(module, [*map(str, arguments)], Path(folder) / "said", environment()).finished(timeout)


def run_ranks(size: int, module: str, *arguments: object, timeout: float = 300) -> None:
    """Run ``python -m MODULE ARGUMENTS`` on so many ranks, forked too; fails the test with what they said if one fails."""
    with tempfile.TemporaryDirectory() as folder, ranks([*map(str, arguments)], size, Path(folder), module=module) as started:
        codes = started.codes(range(size), timeout)
        said = "\n".join(f"rank {rank}:\n{started.said(rank)[-8000:]}" for rank in range(size))
        assert codes == [0] * size, f"{module} {' '.join(map(str, arguments))} ended with {codes}\n{said}"


def torchrun(size: int, *arguments: object, timeout: float = 300) -> None:
    """Run ``python ARGUMENTS`` on so many ranks of a real launcher; fails the test with their output if any of them fails."""
    done = command("torchrun", "--standalone", "--nproc-per-node", size, *arguments, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
