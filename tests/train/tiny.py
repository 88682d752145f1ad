"""Tiny runs for tests, and what they recorded."""

from __future__ import annotations

from pathlib import Path

from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY

TARGET = "ibnorm_megatron.train"


def arguments(data: Path, run: Path, *overrides: str, config: str = "tiny_llama") -> list[str]:
    """Words for the launch target."""
    common = [f"data.path={data}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}"]
    return [f"configs/{config}.yaml", *common, *overrides]


def curve(run: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of every step that a run recorded."""
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in RunFolder(run).read_metrics() if "loss" in r}
