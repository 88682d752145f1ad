"""The running mean of weights is that of the weights after every step, and is what is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ibnorm_megatron.checkpoints.reader import CheckpointReader
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import run_ranks

_DECAY = 0.8


@pytest.mark.slow
def test_the_mean_is_that_of_every_steps_weights(tmp_path: Path, prepared: Path) -> None:
    run, steps = tmp_path / "run", 4
    given = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", f"train.steps={steps}"]
    given += ["checkpoint.interval=1", "checkpoint.keep_last=9", "evaluate.interval=2", "evaluate.batches=1"]
    given += [f"train.average_decay={_DECAY}", "train.precision=bf16", "log.console=false"]
    run_ranks(2, "ibnorm_megatron.train", "configs/tiny_llama.yaml", *given)
    readers = [CheckpointReader(run / "checkpoints" / f"step-{step:08d}") for step in range(1, steps + 1)]
    for name in readers[0].record.parameters:
        weights = [reader.logical("weight", name) for reader in readers]
        means = [reader.logical("average", name) for reader in readers]
        for before, weight, mean in zip(means, weights[1:], means[1:], strict=False):
            torch.testing.assert_close(mean, _DECAY * before + (1 - _DECAY) * weight, rtol=1e-5, atol=1e-7)
            if weight.dim() > 1:
                assert not torch.equal(mean, weight)
    evaluations = [record for record in RunFolder(run).read_metrics() if "val_loss" in record]
    assert [record["step"] for record in evaluations] == [2, 4]
    for record in evaluations:
        assert record["average_val_loss"] > record["val_loss"], "the mean is behind a model that learns"
        assert record["average_val_loss"] == pytest.approx(record["val_loss"], rel=0.05)
        assert record["average_val_tokens"] == record["val_tokens"]
    assert RunFolder(run).read_summary()["average_val_loss"] == evaluations[-1]["average_val_loss"]
    without = tmp_path / "without"
    apart = ["configs/tiny_llama.yaml", *given, f"run.dir={without}", "train.average_decay=0"]
    run_ranks(2, "ibnorm_megatron.train", *apart)
    curves = [[r["loss"] for r in RunFolder(folder).read_metrics() if "loss" in r] for folder in (run, without)]
    assert curves[0] == curves[1], "to keep a mean and to evaluate it changes no step"
