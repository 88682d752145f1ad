"""Runs whose numbers go wrong: what they skip, where they stop, what they say of it, and what is left."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ibnorm_megatron.train.run_folder import RunFolder

from ..conftest import VOCABULARY
from ..distributed import python, run_ranks

PLUGIN = "plugins=[tests/train/plugin_failing_norm.py]"
TP, PP = "parallel.tensor=2", "parallel.pipeline=2"
ZERO = [f"parallel.zero_stage={stage}" for stage in range(4)]
BF16, FP16, HALVES = "train.precision=bf16", "train.precision=fp16", "train.micro_batch_size=2"
SHARDED = "parallel.deepspeed.zero_optimization.stage3_param_persistence_threshold=70"
SMALL_SCALE = "parallel.deepspeed.fp16={initial_scale_power: 2, hysteresis: 1}"
FC2, FC1 = "decoder.layers.1.mlp.linear_fc2.weight", "decoder.layers.1.mlp.linear_fc1.weight"


def _norms(site: str, default: str = "rmsnorm", **options: Any) -> str:
    failing = ", ".join(f"{name}: {value}" for name, value in {"kind": "failing", **options}.items())
    return f"model.norm={{default: {default}, {site}: {{{failing}}}}}"


def _arguments(data: Path, run: Path, *overrides: str, steps: int) -> list[str]:
    common = [f"data.path={data}", f"run.dir={run}", f"model.vocab_size={VOCABULARY}", f"train.steps={steps}", PLUGIN]
    sizes = ["train.sequence_length=32", "train.lr=1e-3", "log.console=false", "guard.stop_after=3", "guard.spikes=off"]
    return ["configs/tiny_llama.yaml", *common, *sizes, *overrides]


DROPOUT = "model.dropout=0.1"
MLP, FIRST = "layers.1.mlp_in", "layers.0.attn_in"

#: The weight to poison and overrides, of runs that fail from step 4 on: two processes each.
FAILING: dict[str, list[str]] = {
    "tp": ["", TP, DROPOUT, _norms(MLP, rank=1)],
    "tp-sp-bf16": ["", TP, "parallel.sequence=true", BF16, ZERO[1], HALVES, DROPOUT, _norms(MLP, rank=1)],
    "pp": ["", PP, HALVES, DROPOUT, _norms(MLP)],
    "pp-first": ["", PP, HALVES, "model.tie_embeddings=true", _norms(FIRST)],
    "zero0": ["", ZERO[0], DROPOUT, _norms(MLP, rank=1)],
    "zero2": ["", ZERO[2], HALVES, BF16, _norms(MLP, "batchnorm", rank=1)],
    "zero3": ["", ZERO[3], HALVES, SHARDED, DROPOUT, _norms(MLP, "normalnorm", rank=1)],
    "recomputed": ["", ZERO[1], "parallel.recompute=full", "parallel.context=2", _norms(MLP, rank=1)],
    "compiled": ["", ZERO[1], "model.compile=layers", _norms(MLP, rank=1)],
    "offloaded": ["", ZERO[2], BF16, HALVES, "parallel.offload_optimizer=true", _norms(MLP, rank=1)],
    "gradient": ["", ZERO[1], _norms(MLP, fault="gradient", rank=1)],
    "fp16": ["", ZERO[2], FP16, SMALL_SCALE, _norms(MLP, fault="gradient", rank=1)],
    "weight": [FC2, TP, ZERO[0]],
    "weight-zero3": [FC1, ZERO[3], SHARDED],
    "weight-pp": [FC2, PP, HALVES],
}  # fmt: skip


#: Those that draw random numbers or gather statistics, which are run a second time with a guard that never stops them.
UNGUARDED = ["tp", "tp-sp-bf16", "pp", "zero2", "zero3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="module")
def found(runs: Path, prepared: Path) -> dict[str, list[dict[str, Any]]]:
    """What each rank said of each case; and of the same without a guard that stops it."""
    cases = {}
    for name, (weight, *overrides) in FAILING.items():
        cases[name] = [weight, *_arguments(prepared, runs / name, *overrides, steps=9)]
        if name in UNGUARDED:
            overrides.append("guard.stop_after=0")
            cases[f"{name}-unguarded"] = [weight, *_arguments(prepared, runs / f"{name}-unguarded", *overrides, steps=9)]
    once = [ZERO[1], BF16, _norms(MLP, "batchnorm", last=4, rank=1)]
    cases["evaluation"] = ["", *_arguments(prepared, runs / "evaluation", _norms(MLP, fault="evaluation", first=5), steps=4)]
    cases["once"] = ["", *_arguments(prepared, runs / "once", *once, steps=8)]
    (runs / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, "tests.workers.guard", runs / "cases.json", runs / "said.json", timeout=900)
    said: dict[str, Any] = json.loads((runs / "said.json").read_text())
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILING)
def test_a_run_that_fails_three_times_stops_with_what_it_had(
    found: dict[str, list[dict[str, Any]]], runs: Path, name: str
) -> None:
    """fp16 first lowers its loss scale from 4 to 1."""
    last = 8 if name == "fp16" else 6
    folder = RunFolder(runs / name)
    for own in found[name]:
        assert own["step"] == last and f"the loss of step {last} is " in own["outcome"]
        assert "not finite for 3 steps in a row" in own["outcome"]
        good = last - 4
        assert own["trained"][good:] == own["trained"][good : good + 1] * 4, "weights and optimizer are of the last good step"
    summary = folder.read_summary()
    assert (summary["status"], summary["step"]) == ("failed", last)
    assert (summary["failure"], summary["reason"]) == ("not_finite", found[name][0]["outcome"])
    assert summary["skipped_steps"] == last - 3
    assert 0 < summary["grad_norm_median"] <= summary["grad_norm_max"] < math.inf
    assert folder.latest_checkpoint() == f"step-{last:08d}"
    records = [record for record in folder.read_metrics() if "loss" in record and "event" not in record]
    assert [record["skipped_steps"] for record in records] == [0, 0, 0, *range(1, last - 2)]
    assert [record["skipped"] for record in records] == [False] * 3 + [True] * (last - 3)


@pytest.mark.slow
def test_a_run_whose_last_evaluation_is_not_finite_has_failed(found: dict[str, list[dict[str, Any]]], runs: Path) -> None:
    for own in found["evaluation"]:
        assert own["step"] == 4
        assert own["outcome"].startswith("the validation loss after step 4 is nan: the run has diverged; ")
    summary = RunFolder(runs / "evaluation").read_summary()
    assert (summary["status"], summary["failure"], summary["val_loss"]) == ("failed", "not_finite", None)
    assert summary["reason"] == found["evaluation"][0]["outcome"]
    assert RunFolder(runs / "evaluation").latest_checkpoint() == "step-00000004"


@pytest.mark.slow
@pytest.mark.parametrize("name", UNGUARDED)
def test_a_diagnosis_leaves_no_trace(found: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Weights, optimizer, loss scale, random numbers, statistics of norms: all as in a run that nobody looked into."""
    for own, unguarded in zip(found[name], found[f"{name}-unguarded"], strict=True):
        assert unguarded["outcome"] == "" and unguarded["step"] == 9
        assert own["trained"] == unguarded["trained"][: own["step"]]
        assert own["around"] == unguarded["around"][: own["step"]]
        assert len(set(own["around"])) > 3, "there is something that steps change"


def _diagnosis(runs: Path, name: str) -> dict[str, Any]:
    diagnosis: dict[str, Any] = json.loads((runs / name / "diagnosis.json").read_text())
    (event,) = [record for record in RunFolder(runs / name).read_metrics() if record.get("event") == "diagnosis"]
    assert {key: event[key] for key in ("output", "gradient", "weight", "largest")}.items() <= diagnosis.items()
    return diagnosis


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in FAILING.items() if MLP in case[-1] and "gradient" not in case[-1]])
def test_the_norm_that_fails_first_is_named_with_its_rank(
    found: dict[str, list[dict[str, Any]]], runs: Path, name: str
) -> None:
    diagnosis = _diagnosis(runs, name)
    output = diagnosis["output"]
    assert (output["module"], output["rank"], output["micro_batch"]) == (f"norm {MLP}", 1, 0)
    assert output["stage"] == (1 if name == "pp" else 0)
    assert all(f"is that of norm {MLP} on rank 1" in own["outcome"] for own in found[name])
    assert diagnosis["weight"] is None and diagnosis["gradient"] == "embedding.word_embeddings.weight"
    largest = diagnosis["largest"]
    assert largest.keys() == {f"layers.{n}.{site}" for n in (0, 1) for site in ("attn_in", "mlp_in")} | {"final"}
    assert largest.pop("final") is None
    assert all(0 < value < 100 for value in largest.values())


@pytest.mark.slow
def test_a_stage_before_it_is_named_where_it_begins(found: dict[str, list[dict[str, Any]]], runs: Path) -> None:
    output = _diagnosis(runs, "pp-first")["output"]
    assert (output["module"], output["rank"], output["stage"]) == (f"norm {FIRST}", 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient", "fp16"])
def test_a_gradient_that_fails_alone_is_named(found: dict[str, list[dict[str, Any]]], runs: Path, name: str) -> None:
    diagnosis = _diagnosis(runs, name)
    assert diagnosis["output"] is None and diagnosis["weight"] is None
    assert diagnosis["gradient"] == "embedding.word_embeddings.weight", "all that comes before the norm"
    assert float(diagnosis["grad_norm"]) == math.inf and 0 < float(diagnosis["loss"]) < 10
    assert None not in diagnosis["largest"].values()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weight"), [("weight", FC2), ("weight-zero3", FC1), ("weight-pp", FC2)])
def test_a_poisoned_weight_is_named(found: dict[str, list[dict[str, Any]]], runs: Path, name: str, weight: str) -> None:
    diagnosis = _diagnosis(runs, name)
    assert diagnosis["weight"] == weight
    assert diagnosis["output"]["module"] == weight.removesuffix(".weight")
    assert f"the weight {weight} is not finite itself" in found[name][0]["outcome"]


@pytest.mark.slow
def test_one_step_that_fails_is_skipped_and_the_run_goes_on(found: dict[str, list[dict[str, Any]]], runs: Path) -> None:
    """The statistics that norms gathered in it are dropped with it: else they would be no numbers from then on."""
    for own in found["once"]:
        assert (own["outcome"], own["step"]) == ("", 8)
        assert own["trained"][2] == own["trained"][3] and len(set(own["trained"])) == 7
    records = RunFolder(runs / "once").read_metrics()
    assert [record["skipped_steps"] for record in records if "skipped_steps" in record] == [0, 0, 0, 1, 1, 1, 1, 1]
    # A machine with much to do may add that a rank lags.
    (event,) = [record for record in records if record.get("event") == "not_finite"]
    assert (event["step"], event["in_a_row"]) == (4, 1)
    assert RunFolder(runs / "once").read_summary()["status"] == "complete"


@pytest.mark.slow
def test_the_command_ends_with_one_sentence_and_goes_on_when_it_is_given_again(tmp_path: Path, prepared: Path) -> None:
    run = tmp_path / "run"
    target = ["ibnorm_megatron.train", *_arguments(prepared, run, DROPOUT, _norms(MLP, last=6), steps=9)]
    failed = python(*target)
    assert failed.returncode == 1
    sentence = r"error: the loss of step 6 is nan, and the gradient's norm inf: not finite for 3 steps in a row: .*\.\n"
    assert re.search(sentence, failed.stderr) and "Traceback" not in failed.stderr, failed.stderr
    assert "stopped at step 6 with its state saved" not in failed.stdout, "the console is off"
    done = python(*target)
    assert done.returncode == 0, done.stderr
    records = RunFolder(run).read_metrics()
    assert [record["skipped_steps"] for record in records if "skipped_steps" in record] == [0, 0, 0, 1, 2, 3, 3, 3, 3]
    assert RunFolder(run).read_summary()["status"] == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("spikes", ["report", "skip"])
def test_a_resumed_run_judges_jumps_as_the_undisturbed_one(tmp_path: Path, prepared: Path, spikes: str) -> None:
    """A jump at step 21, seen from a window of which most was filled before the checkpoint at step 18."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    given = [f"guard.spikes={spikes}", "guard.spike_window=16", "checkpoint.interval=6", "checkpoint.keep_last=10"]
    given += [_norms("final", fault="jump", first=21, last=21), "log.console=true", "guard.spike_threshold=20"]
    done = python("ibnorm_megatron.train", *_arguments(prepared, whole, *given, steps=24))
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 21: the loss jumps to \d+\S* from a usual \S+ \(\d+ deviations\)", done.stderr)
    assert ("; the step is skipped" in done.stderr) == (spikes == "skip")
    records = RunFolder(whole).read_metrics()
    events = [record for record in records if "event" in record]
    assert {(event["step"], event["of"]) for event in events} == {(21, "loss"), (21, "grad_norm")}
    for event in events:
        assert event["deviations"] == pytest.approx(event["deviations"]) and event["value"] > 2 * event["usual"]
        assert event["skipped"] == (spikes == "skip")
    (step,) = [record for record in records if record["step"] == 21 and "loss" in record]
    assert (step["loss"], step["skipped"]) == (events[0]["value"], spikes == "skip")
    assert step["grad_norm"] == pytest.approx(events[1]["value"])

    assert RunFolder(whole).read_summary()["spikes"] == 1
    assert RunFolder(whole).read_summary()["skipped_steps"] == (spikes == "skip")

    shutil.copytree(whole, halved)
    (halved / "checkpoints" / "latest").write_text("step-00000018")
    (halved / "summary.json").unlink()
    done = python("ibnorm_megatron.train", *_arguments(prepared, halved, *given, steps=24))
    assert done.returncode == 0, done.stderr
    timing = ("step_seconds", "tokens_per_second", "tflops_per_rank", "mfu")
    resumed = [{k: v for k, v in record.items() if k not in timing} for record in RunFolder(halved).read_metrics()]
    assert resumed == [{k: v for k, v in record.items() if k not in timing} for record in records]
