"""A checkpoint gives back the run that was saved: bit for bit in its layout, up to rounding in any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.checkpoints.record import read_record
from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import run_ranks
from ..workers.ranks import ranks
from .tiny import curve

pytestmark = pytest.mark.slow

_ACCUMULATE = "train.micro_batch_size=2"
_DROPOUT = "model.dropout=0.1"
_AVERAGE = "train.average_decay=0.9"
_MUP = "model.mup_base_width=16"  # a group of parameters more, with a learning rate of its own

#: Everything that a rank can hold in its own way; all with dropout where there is a place for it.
SAME = {
    1: {
        "plain": ["parallel.zero_stage=0", _DROPOUT],
        "stage 1 of one": ["train.precision=bf16", _ACCUMULATE, _DROPOUT],
        "offloaded": ["parallel.offload_optimizer=true", "parallel.zero_stage=2", _DROPOUT],
        "offloaded 3": ["parallel.offload_optimizer=true", "parallel.zero_stage=3", "train.precision=bf16"],
        "statistics": ["model.norm=batchnorm", "train.precision=bf16"],
    },
    2: {
        "replicas": ["parallel.zero_stage=0", _ACCUMULATE, _DROPOUT, _AVERAGE, _MUP],
        "zero1": ["parallel.zero_stage=1", _ACCUMULATE, _DROPOUT],
        "zero1 bf16": ["parallel.zero_stage=1", "train.precision=bf16", _DROPOUT, _AVERAGE],
        "zero1 bf16 accumulated": ["parallel.zero_stage=1", "train.precision=bf16", _ACCUMULATE, _DROPOUT, _MUP],
        "zero2 bf16": ["parallel.zero_stage=2", "train.precision=bf16", _ACCUMULATE, _DROPOUT, _MUP],
        "zero2 fp16": ["parallel.zero_stage=2", "train.precision=fp16", "parallel.deepspeed={fp16: {initial_scale_power: 22}}"],
        "zero3": ["parallel.zero_stage=3", _ACCUMULATE, _DROPOUT],
        "zero3 bf16": ["parallel.zero_stage=3", "train.precision=bf16", _DROPOUT, "model.tie_embeddings=true", _AVERAGE, _MUP],
        "tensor": ["parallel.tensor=2", "parallel.sequence=true", "train.precision=bf16", _DROPOUT, _MUP],
        "noise": ["parallel.tensor=2", "model.norm=normalnorm", "model.qk_norm=full", _DROPOUT],
        "statistics": ["parallel.tensor=2", "model.norm={default: batchnorm, attn_sub: batchnorm}"],
        "stages": ["parallel.pipeline=2", "model.tie_embeddings=true", _ACCUMULATE, _DROPOUT, _MUP],
        "context": ["parallel.context=2", "parallel.zero_stage=3", "parallel.recompute=full", _DROPOUT],
    },
}  # fmt: skip


def _case(prepared: Path, run: Path, overrides: list[str], **more: Any) -> dict[str, Any]:
    given = [f"data.path={prepared}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", "log.console=false", *overrides]
    return {"config": "configs/tiny_llama.yaml", "overrides": given, **more}


def _train(tmp_path: Path, processes: int, cases: list[dict[str, Any]]) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    run_ranks(processes, "tests.workers.resume", tmp_path / "cases.json", timeout=900)


@pytest.mark.parametrize("processes", SAME)
def test_the_same_layout_goes_on_bit_for_bit(tmp_path: Path, prepared: Path, processes: int) -> None:
    """Losses, gradient norms, weights, moments and random numbers: the files of the last checkpoints are equal bytes."""
    common = ["train.steps=6", "checkpoint.interval=3", "model.norm=ibnorm_log", "evaluate.batches=1"]
    cases = []
    for name, overrides in SAME[processes].items():
        whole, again = tmp_path / f"{name} whole", tmp_path / f"{name} again"
        cases.append(_case(prepared, whole, [*common, *overrides]))
        cases.append(_case(prepared, again, [*common, *overrides], **{"from": str(whole), "step": 3}))
    _train(tmp_path, processes, cases)
    for name in SAME[processes]:
        whole, again = tmp_path / f"{name} whole", tmp_path / f"{name} again"
        assert RunFolder(again).read_card()["resumed"][0]["step"] == 3, name
        assert curve(again) == curve(whole), name
        assert len(curve(again)) == 6
        assert RunFolder(again).read_summary()["val_loss"] == RunFolder(whole).read_summary()["val_loss"], name
        ends = [read_record(run / "checkpoints" / "step-00000006") for run in (whole, again)]
        hashes = [{file: record.hash for file, record in end.files.items()} for end in ends]
        assert hashes[0] == hashes[1], name
        assert len(hashes[0]) == processes
        assert ends[0].optimizer_steps == ends[1].optimizer_steps
        assert ends[0].loss_scale == ends[1].loss_scale
    if processes == 2:  # fp16 really went through a change of its loss scale
        assert ends[0].optimizer_steps == 6
        scaled = read_record(tmp_path / "zero2 fp16 again" / "checkpoints" / "step-00000006")
        assert scaled.loss_scale["cur_iter"] == 6
        assert 0 < scaled.optimizer_steps < 6


#: Where to go on from the middle of an undisturbed run on one process: processes, and what is other than there.
OTHER: dict[int, dict[str, list[str]]] = {
    2: {
        "dp2 zero0": ["parallel.zero_stage=0"],
        "dp2 zero1": ["parallel.zero_stage=1", _ACCUMULATE],
        "dp2 zero3": ["parallel.zero_stage=3"],
        "tp2": ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=2"],
        "pp2": ["parallel.pipeline=2", _ACCUMULATE],
        "cp2": ["parallel.context=2", "parallel.zero_stage=3"],
    },
    4: {
        "dp4 zero2": ["parallel.zero_stage=2", _ACCUMULATE],
        "tp2 dp2 zero3": ["parallel.tensor=2", "parallel.zero_stage=3"],
        "tp2 pp2": ["parallel.tensor=2", "parallel.pipeline=2", _ACCUMULATE],
    },
}
_FIRST, _THEN = 5, 55


def test_layers_that_no_stage_has_are_refused(tmp_path: Path, prepared: Path) -> None:
    """Of a stage alone nobody could say that a checkpoint's layer belongs to none."""
    run = tmp_path / "deep"
    _train(tmp_path, 1, [_case(prepared, run, ["train.steps=1", "model.num_layers=4"])])
    fewer = ["train.steps=2", "model.num_layers=2", "parallel.pipeline=2", "run.allow=[train.steps, model.num_layers]"]
    case = _case(prepared, run, fewer)
    with ranks([case["config"], *case["overrides"]], 2, tmp_path / "logs") as refused:
        codes = refused.codes([0, 1], seconds=300)
        said = refused.said(0) + refused.said(1)
    assert 0 not in codes and None not in codes
    assert "decoder.layers.2.input_layernorm.weight in the checkpoint" in said
    assert "the model has no such tensor" in said


@pytest.mark.parametrize(
    ("norm", "vocabulary", "layouts", "back"),
    [
        ("ibnorm_log", VOCABULARY, [*OTHER[2], *OTHER[4]], ["tp2", "tp2 pp2", "tp2 dp2 zero3", "cp2"]),
        ("{default: ibnorm_log, attn_sub: batchnorm, final: {kind: ibnorm_tanh, strength: learnable}}", 515, ["tp2"], ["tp2"]),
    ],
)
def test_every_other_layout_goes_on_up_to_rounding(
    tmp_path: Path, prepared: Path, norm: str, vocabulary: int, layouts: list[str], back: list[str]
) -> None:
    """Fifty steps within 1e-5 of the run on one process, there and back; a vocabulary that tensor ranks have to pad."""
    common = [f"train.steps={_THEN}", "checkpoint.keep_every=5", "checkpoint.interval=5", "evaluate.batches=1", _AVERAGE]
    common += [f"model.norm={norm}", f"model.vocab_size={vocabulary}", "train.lr=1e-3", "train.global_batch_size=4"]
    common += ["model.mup_base_width=32"] if vocabulary == VOCABULARY else []
    base = tmp_path / "base"
    _train(tmp_path, 1, [_case(prepared, base, [*common, "parallel.zero_stage=0"])])
    there = {"from": str(base), "step": _FIRST}
    for processes, others in OTHER.items():
        cases = [_case(prepared, tmp_path / name, [*common, *others[name]], **there) for name in others if name in layouts]
        if cases:
            _train(tmp_path, processes, cases)
    starts = {f"{name} and back": {"from": str(tmp_path / name), "step": 30} for name in back}
    home = [*common, "parallel.zero_stage=1"]
    _train(tmp_path, 1, [_case(prepared, tmp_path / name, home, **start) for name, start in starts.items()])
    undisturbed = curve(base)
    assert len(undisturbed) == _THEN
    assert undisturbed[_THEN][0] < undisturbed[_FIRST][0] - 0.3, "the run learned nothing"
    for name in (*layouts, *starts):
        found = curve(tmp_path / name)
        assert len(found) == _THEN, name
        worst = max(abs(found[step][0] - loss) / loss for step, (loss, _) in undisturbed.items())
        assert worst < 1e-5, f"{name}: {worst:.1e}"
        ends = [RunFolder(run).read_summary() for run in (tmp_path / name, base)]
        assert ends[0]["tokens"] == ends[1]["tokens"]
        for value in ("val_loss", "average_val_loss"):
            assert ends[0][value] == pytest.approx(ends[1][value], rel=1e-5), (name, value)
    card = RunFolder(tmp_path / "tp2 and back").read_card()
    assert [entry["step"] for entry in card["resumed"]] == [_FIRST, 30]
    assert card["resumed"][0]["layout.tensor"] == 2
