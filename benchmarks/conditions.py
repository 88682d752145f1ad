"""Under which a benchmark's numbers hold: hardware, versions, commit, command."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def conditions(module: str, method: str) -> dict[str, str]:
    """What a reader needs to repeat ``python -m MODULE``; the machine by its model only."""
    return {
        "hardware": f"{_processor()}, {torch.get_num_threads()} thread(s); other processes may have shared the machine",
        "GPU": _gpu(),
        "versions": ", ".join([f"Python {platform.python_version()}", *_packages()]),
        "commit": _commit(),
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python -m {module} {' '.join(sys.argv[1:])}".strip(),
        "method": method,
    }


def markdown_table(heads: list[str], lines: list[list[str]]) -> str:
    """A table as GitHub shows it."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines))


def _packages() -> list[str]:
    found = [f"torch {torch.__version__}"]
    for name in ("triton", "liger-kernel", "quack-kernels", "transformers", "litgpt"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return found


def _commit() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    sources = ["ibnorm_megatron", "benchmarks/*.py"]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *sources], check=False).returncode  # noqa: S603, S607
    return commit.stdout.strip() + (" with changes" if changed else "")


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none; nothing here was measured on one"
    from .floors import Gpu

    gpu = Gpu.of(torch.device("cuda"))
    return f"{gpu.name}, {gpu.processors} multiprocessors, at most {gpu.clock / 1e6:.0f} MHz, CUDA {torch.version.cuda}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    wide = "AVX-512" if "avx512f" in named.get("flags", "") else "no AVX-512"
    return (
        f"{named.get('model name', platform.machine())} (family {named.get('cpu family')} model {named.get('model')}), {wide}"
    )
