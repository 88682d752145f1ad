"""Training one model in many layouts and comparing what came out; used by the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..conftest import VOCABULARY
from ..distributed import run_ranks

# Seen on two x86 cores: losses 7e-7 apart, gradients 1.6e-6 of their norm. Another order of summation is 1e-7 relative an
# operation; a missing or doubled sum is 1e-3 and more, as tests show. The learning rate is moderate: a loss responds to the
# weights' differences in proportion to its gradient, so a run that leaps amplifies rounding.
LOSS_BOUND, GRADIENT_BOUND = 2e-6, 5e-6


def case(config: str, data: Path, runs: Path, name: str, *overrides: str, steps: int) -> list[str]:
    """A config file and its overrides, as the worker takes them."""
    common = [
        f"data.path={data}", f"run.dir={runs / name}", f"model.vocab_size={VOCABULARY}", f"train.steps={steps}",
        "train.precision=fp32", "train.lr=1e-3", "log.console=false",
    ]  # fmt: skip
    return [f"configs/{config}.yaml", *common, *overrides]


def run_cases(folder: Path, processes: int, cases: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Train the cases one after another on so many ranks; what each gave, by its name."""
    path = folder / f"cases{processes}.json"
    path.write_text(json.dumps(cases))
    run_ranks(processes, "tests.workers.layouts", path, folder, timeout=600)
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in cases}


def loss_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Largest difference of two loss curves."""
    return max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))


def gradient_differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """How far every gradient of b is from a's, relative to a's norm."""
    assert a["gradients"].keys() == b["gradients"].keys()
    return {
        name: float((gradient - b["gradients"][name]).norm() / gradient.norm()) for name, gradient in a["gradients"].items()
    }
