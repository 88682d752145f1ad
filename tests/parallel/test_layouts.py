"""The same model, weights and data in every layout: losses, every gradient, and replicated weights agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comparing import GRADIENT_BOUND, LOSS_BOUND, case, gradient_differences, loss_difference, run_cases

STEPS = 20

#: Many micro-batches in low precision: what is lost where gradients are added up in that precision shows here.
MANY_BF16 = ["train.precision=bf16", "train.micro_batch_size=1"]

ZERO_BOUND = 1e-5

#: Long curves of the second model in what differs most from one process; ``ibnorm verify`` has many more layouts of it.
OF_GPT2 = ("one", "tp2", "tp2sp", "tp2-dropout", "tp2sp-unsummed", "dp2-zero2", "tp2sp-dp2-zero3")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, dict[str, Any]]:
    """Every layout trained, by name: MODEL-LAYOUT. The references ran on one process."""
    folder = tmp_path_factory.mktemp("layouts")
    models = {
        "llama": ("tiny_llama", "model.norm=ibnorm_log", "model.qk_norm=true"),
        "gpt2": ("tiny_gpt2", "model.norm=ibnorm_tanh"),
    }
    layouts = {
        1: {"one": ["parallel.zero_stage=0"], "one-bf16": MANY_BF16},
        2: {
            "tp2": ["parallel.tensor=2", "parallel.zero_stage=0"],
            "tp2sp": ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=1"],
            "tp2-dropout": ["parallel.tensor=2", "model.dropout=0.1"],
            "tp2sp-dropout": ["parallel.tensor=2", "parallel.sequence=true", "model.dropout=0.1"],
            "tp2sp-unsummed": ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=1", "without-sum"],
            "tp2sp-accumulated": [
                "parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=1", "train.micro_batch_size=2"
            ],
            **{f"dp2-zero{stage}": [f"parallel.zero_stage={stage}"] for stage in range(4)},
            **{f"dp2-zero{stage}-bf16": [*MANY_BF16, f"parallel.zero_stage={stage}"] for stage in (1, 2, 3)},
        },
        4: {
            f"tp2sp-dp2-zero{stage}": ["parallel.tensor=2", "parallel.sequence=true", f"parallel.zero_stage={stage}"]
            for stage in (1, 2, 3)
        },
    }  # fmt: skip
    found = {}
    for processes, of_size in layouts.items():
        cases = {
            f"{model}-{layout}": case(config, prepared, folder, f"{model}-{layout}", *options, *overrides, steps=STEPS)
            for model, (config, *options) in models.items()
            for layout, overrides in of_size.items()
            if model == "llama" or layout in OF_GPT2
        }
        found.update(run_cases(folder, processes, cases))
    return found


def _of_both(*layouts: str) -> list[tuple[str, str]]:
    """Those of these layouts that each model is trained in."""
    return [(model, layout) for model in ("llama", "gpt2") for layout in layouts if model == "llama" or layout in OF_GPT2]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), _of_both("tp2", "tp2sp", "tp2sp-accumulated"))
def test_tensor_parallel_equals_one_process(results: dict[str, dict[str, Any]], model: str, layout: str) -> None:
    one, split = results[f"{model}-one"], results[f"{model}-{layout}"]
    differences = gradient_differences(one, split)
    worst = max(differences, key=differences.__getitem__)
    print(f"{model} {layout}: loss {loss_difference(one, split):.1e}, gradient {differences[worst]:.1e} ({worst})")
    assert loss_difference(one, split) <= LOSS_BOUND
    assert differences[worst] <= GRADIENT_BOUND, worst
    assert split["replica_spread"] == 0.0, "a weight that all tensor ranks hold has drifted apart"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout"),
    _of_both(*(f"dp2-zero{stage}" for stage in range(4)), *(f"tp2sp-dp2-zero{stage}" for stage in (1, 2, 3))),
)
def test_every_zero_stage_gives_the_same_curve(results: dict[str, dict[str, Any]], model: str, layout: str) -> None:
    one, sharded = results[f"{model}-one"], results[f"{model}-{layout}"]
    norms = abs(one["norms"][0] - sharded["norms"][0]) / one["norms"][0]
    differences = gradient_differences(one, sharded)
    worst = max(differences, key=differences.__getitem__)
    print(f"{model} {layout}: loss {loss_difference(one, sharded):.1e}, norm {norms:.1e}, gradient {differences[worst]:.1e}")
    assert loss_difference(one, sharded) <= ZERO_BOUND
    assert norms <= GRADIENT_BOUND
    assert differences[worst] <= GRADIENT_BOUND, worst
    assert sharded["replica_spread"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_gradients_are_added_up_in_float32(results: dict[str, dict[str, Any]], stage: int) -> None:
    differences = gradient_differences(results["llama-one-bf16"], results[f"llama-dp2-zero{stage}-bf16"])
    assert max(differences.values()) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("model", "layout"), _of_both("tp2-dropout", "tp2sp-dropout"))
def test_dropout_keeps_the_replicas_equal(results: dict[str, dict[str, Any]], model: str, layout: str) -> None:
    whole, dropped = results[f"{model}-one"], results[f"{model}-{layout}"]
    assert loss_difference(whole, dropped) > 1e-3, "nothing was dropped"
    assert dropped["replica_spread"] == 0.0
    falls = [run["losses"][0] - run["losses"][-1] for run in (whole, dropped)]
    assert falls[1] > 0.6 * falls[0], "dropout slows learning, and does not end it"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_missing_sum_is_far_outside_the_bounds(results: dict[str, dict[str, Any]], model: str) -> None:
    one, unsummed = results[f"{model}-one"], results[f"{model}-tp2sp-unsummed"]
    wrong = {name for name, difference in gradient_differences(one, unsummed).items() if difference > 1e-3}
    assert wrong, "dropping the sum changed nothing, so the tests above see nothing"
    assert all("norm" in name or "linear_proj.bias" in name or "linear_fc2.bias" in name for name in wrong)
    assert unsummed["replica_spread"] > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_reference_learned(results: dict[str, dict[str, Any]], model: str) -> None:
    losses = results[f"{model}-one"]["losses"]
    assert losses[-1] < losses[0] - 0.5
