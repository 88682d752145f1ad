"""Running real processes from tests: ranks under torchrun, commands as a user would type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """The test's environment with the virtual environment's commands in front, and one thread a process."""
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def command(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository and return what it did."""
    given = [str(argument) for argument in arguments]
    return subprocess.run(given, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def torchrun(processes: int, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` on so many ranks; fails the test with their output if any of them fails."""
    done = command("torchrun", "--standalone", "--nproc-per-node", processes, *arguments, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done
