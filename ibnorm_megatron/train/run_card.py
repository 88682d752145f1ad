"""The run card: what has to be known about a run to compare it with another, or to run it again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import Config
from ..data.prepared import Prepared
from ..plugins import plugin_hashes

_LIBRARIES = ("torch", "megatron-core", "deepspeed", "sentencepiece", "datasets", "numpy")


def run_card(config: Config, prepared: Prepared, world_size: int) -> dict[str, Any]:
    """All of :func:`run_identity`, and the versions, commit and hardware it runs with; plain values."""
    return {
        "ibnorm_megatron": __version__,
        "git": git_state(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "hardware": _hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **run_identity(config, prepared, world_size),
    }


def run_identity(config: Config, prepared: Prepared, world_size: int) -> dict[str, Any]:
    """Layout, hashes, seed and sizes of a run: what stays the same wherever it goes on. Imports no torch."""
    train = config.train
    return {
        "plugins": plugin_hashes(config.plugins),
        "norm": config.model.norm_label(),
        "seed": train.seed,
        "layout": layout_of(config, world_size),
        "parameters": config.model.num_params(),
        "tokens": train.steps * train.tokens_per_step(),
        "data": {
            "hash": prepared.content_hash(),
            "tokenizer": prepared.tokenizer.hash,
            "train_tokens": prepared.tokens("train"),
            "validation_tokens": prepared.tokens("validation"),
            "unigram_entropy": prepared.unigram_entropy(),
        },
    }


def layout_of(config: Config, world_size: int) -> dict[str, Any]:
    """The layout of a run in a world of this size, with its precision."""
    layout = config.parallel
    return {
        "world_size": world_size,
        "tensor": layout.tensor,
        "sequence_parallel": layout.sequence_parallel,
        "pipeline": layout.pipeline,
        "context": layout.context,
        "data": layout.data(world_size),
        "zero_stage": layout.zero_stage,
        "precision": config.train.precision,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it has local changes; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _hardware() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "gpu": gpu,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": sys.platform,
    }
