"""Programs that build what libraries compile while a run starts, and what needs them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from .finding import Finding, ok, warning

AREA = "compilers"

#: Program -> what needs it, on machines without a GPU and with one. Empty: nothing there does.
_NEEDS = {
    "gcc": ("", "Triton, for every fused norm"),
    "g++": ("model.compile, and DeepSpeed's offloading to files", "DeepSpeed's offloading"),
    "nvcc": ("", "building flash-attn where it has no wheel, and DeepSpeed's own kernels"),
    "ninja": ("DeepSpeed's offloading to files", "DeepSpeed's offloading"),
    "git": ("run cards, which say what code ran", "run cards, which say what code ran"),
}


def programs(environ: Mapping[str, str], gpu: bool) -> Iterator[Finding]:
    """Every program: its version, or what cannot be done without it."""
    path = environ.get("PATH")
    for name, needs in _NEEDS.items():
        usual = environ.get("CXX", name) if name == "g++" else name  # torch runs $CXX, or else the usual name
        shown, where, need = f"{name} ($CXX)" if usual != name else name, shutil.which(usual, path=path), needs[gpu]
        if where is not None:
            yield ok(AREA, shown, _version(where), path=where)
        elif need:
            mend = f"install {name}" + (f", or set CXX to a compiler: {usual!r} is none" if usual != name else "")
            yield warning(AREA, shown, f"missing; needed by {need}", mend)
        else:
            yield ok(AREA, shown, "missing; nothing here needs it")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if gpu and not header.is_file():
        yield warning(
            AREA, "Python.h", "missing; needed by Triton, for every fused norm", "install Python's headers (python3-dev)"
        )


def _version(program: str) -> str:
    """What a program says of itself, its first line with a number."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} (does not say its version: {type(error).__name__})"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    numbered = [line for line in lines if any(letter.isdigit() for letter in line)]
    preferred = [line for line in numbered if "release" in line]  # nvcc's version comes after its copyright
    return (preferred or numbered or [program])[0][:80]
