"""lambda over a run: it is where the step says, it is learned, and a resumed run goes on with it bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from ibnorm_megatron.checkpoints.reader import CheckpointReader
from ibnorm_megatron.norms import Site, parse_norm
from ibnorm_megatron.train.callbacks.norms import NormSteps
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import run_ranks


def test_norms_hear_of_the_steps_done() -> None:
    config = parse_norm({"kind": "ibnorm", "lambda": 2.0, "strength": "scheduled", "ramp": 0.5})
    norms = [config.build(8, site=Site("attn_in", layer)) for layer in range(2)]
    trainer = SimpleNamespace(
        engine=SimpleNamespace(module=nn.ModuleList(norms)),
        state=SimpleNamespace(step=0),
        config=SimpleNamespace(train=SimpleNamespace(steps=8)),
    )
    callback = NormSteps()
    callback.on_start(trainer)
    assert [norm.current_lambda() for norm in norms] == [8.0, 8.0]
    trainer.state.step = 1
    callback.after_step(trainer)
    assert [norm.current_lambda() for norm in norms] == [4.0, 4.0]


@pytest.mark.slow
def test_resumed_is_the_same_curve_with_the_same_lambda(tmp_path: Path, prepared: Path) -> None:
    norm = {
        "default": {"kind": "ibnorm_log", "strength": "scheduled", "ramp": 0.75},
        "final": {"kind": "ibnorm_tanh", "lambda": 2.0, "strength": "learnable"},
        "mlp_sub": {"kind": "ibnorm_softsign", "strength": "learnable", "scale": "relative"},
    }
    whole, again = tmp_path / "whole", tmp_path / "again"
    for run in (whole, again):
        if run == again:  # go back to the sixth step
            shutil.copytree(whole, again)
            (again / "checkpoints" / "latest").write_text("step-00000006\n")
            (again / "summary.json").unlink()
        common = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", f"model.norm={json.dumps(norm)}"]
        common += ["train.steps=12", "checkpoint.interval=6", "evaluate.interval=6"]
        common += ["parallel.tensor=2", "parallel.sequence=true"]
        run_ranks(2, "ibnorm_megatron.train", "configs/tiny_llama.yaml", *common)
    assert RunFolder(again).read_card()["resumed"][0]["step"] == 6
    curves = [
        [(r["step"], r.get("loss"), r.get("grad_norm"), r.get("val_loss")) for r in RunFolder(run).read_metrics()]
        for run in (whole, again)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 14
    lambdas = [_learned(run / "checkpoints" / "step-00000012") for run in (whole, again)]
    assert lambdas[0] == lambdas[1]
    assert len(lambdas[0]) == 3
    for name, value in lambdas[0].items():
        start = 2.0 if "final" in name else 4.0
        assert value != pytest.approx(start, rel=1e-4), name
        assert value == pytest.approx(start, rel=0.1), name


def _learned(checkpoint: Path) -> dict[str, float]:
    """Every learned lambda by name."""
    reader = CheckpointReader(checkpoint)
    names = [name for name in reader.record.parameters if name.endswith("log_lambda")]
    return {name: reader.logical("weight", name).exp().item() for name in names}
