"""Norms at every site and placement: tensor parallelism changes nothing, and sharded norm weights move between layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .comparing import GRADIENT_BOUND, LOSS_BOUND, case, gradient_differences, loss_difference, run_cases

STEPS = 8

#: AdamW makes a full step of a gradient that is nothing but rounding, unless this is larger than it.
SMOOTH = "train.adam_eps=1e-6"

#: Between them they have a norm at every site, sharded and not, in every placement.
MODELS = {
    "sub": [
        "tiny_llama",
        "model.norm={default: ibnorm_log, embedding: layernorm, layers.1.attn_sub: {kind: ibnorm_tanh, scale: relative}}",
        "model.norm_placement=sub",
        "model.qk_norm=full",
    ],
    "peri": ["tiny_gpt2", "model.norm={default: ibnorm_tanh, mlp_sub: rmsnorm}", "model.norm_placement=peri"],
    "post": ["tiny_llama", "model.norm={default: layernorm, attn_sub: layernorm}", "model.norm_placement=post"],
    "output": ["tiny_llama", "model.norm=rmsnorm", "model.norm_placement=output", "model.qk_norm=full"],
}

#: The norms to compare with, and what else has parameters or statistics of its own: at every site, sharded and not.
EVERYWHERE = {
    "dyt": "dyt",
    "derf": "derf",
    "normalnorm": "normalnorm",
    "layernorm_scaling": "layernorm_scaling",
    "l2norm": "l2norm",
    "unit_offset": "{kind: rmsnorm, unit_offset: true}",
    "learnable": "{kind: ibnorm_log, strength: learnable}",
    "scheduled": "{kind: ibnorm_tanh, strength: scheduled, scale: relative}",
}
_SUB = ["model.norm_placement=sub", "model.scale_residual_init=false"]
MODELS |= {name: ["tiny_llama", f"model.norm={norm}", *_SUB, "model.qk_norm=full"] for name, norm in EVERYWHERE.items()}
# Its averages start far from what queries and keys are: their gradients would be rounding and nothing else.
MODELS["batchnorm"] = ["tiny_llama", "model.norm=batchnorm", *_SUB]
#: Without sequence parallelism these share all their code with others here: DyT, a learned lambda, BatchNorm, noise.
SEQUENCE_ONLY = ("derf", "layernorm_scaling", "l2norm", "unit_offset", "scheduled", "post", "output")

LAYOUTS = {
    "tp2": ["parallel.tensor=2", "parallel.zero_stage=0"],
    "tp2sp": ["parallel.tensor=2", "parallel.sequence=true", "parallel.zero_stage=1"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> dict[str, dict[str, Any]]:
    """Every model in every layout, by name: MODEL-LAYOUT; and SUB models that go on, for one step, from others' weights."""
    folder = tmp_path_factory.mktemp("sites")

    def cases(layouts: dict[str, list[str]]) -> dict[str, list[str]]:
        return {
            f"{model}-{layout}": case(config, prepared, folder, f"{model}-{layout}", SMOOTH, *options, *overrides, steps=STEPS)
            for model, (config, *options) in MODELS.items()
            for layout, overrides in layouts.items()
            if layout != "tp2" or model not in SEQUENCE_ONLY
        }

    def on_from(source: str, layout: str, *overrides: str) -> dict[str, list[str]]:
        config, *options = MODELS["sub"]
        name = f"{source}-on-{layout}"
        return {name: case(config, prepared, folder, name, *options, *overrides, f"from={source}", steps=1)}

    one = ["parallel.zero_stage=0"]
    found = run_cases(folder, 1, cases({"one": one}))
    found |= run_cases(folder, 2, cases(LAYOUTS) | on_from("sub-tp2sp", "tp2sp", *LAYOUTS["tp2sp"]))
    return found | run_cases(folder, 1, on_from("sub-tp2sp", "one", *one))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout"),
    [(model, layout) for model in MODELS for layout in LAYOUTS if layout != "tp2" or model not in SEQUENCE_ONLY],
)
def test_tensor_parallel_equals_one_process(results: dict[str, dict[str, Any]], model: str, layout: str) -> None:
    one, split = results[f"{model}-one"], results[f"{model}-{layout}"]
    differences = gradient_differences(one, split)
    for name in [name for name in differences if one["gradients"][name].numel() == 1]:
        differences[name] *= float(_cancelled(one["gradients"], name))
    worst = max(differences, key=differences.__getitem__)
    norms = abs(one["norms"][0] - split["norms"][0]) / one["norms"][0]
    print(f"{model} {layout}: loss {loss_difference(one, split):.1e}, norm {norms:.1e}")
    print(f"{model} {layout}: gradient {differences[worst]:.1e} ({worst})")
    assert loss_difference(one, split) <= LOSS_BOUND
    assert differences[worst] <= GRADIENT_BOUND, worst
    assert norms <= GRADIENT_BOUND, "a shard is counted twice, or not at all"
    assert split["replica_spread"] == 0.0
    assert one["losses"][-1] < one["losses"][0] - 0.03, "nothing was learned"


def _cancelled(gradients: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """How much smaller than those of its norm's gain and bias a scalar's gradient is: it sums over columns, and they cancel."""
    norm = name.rpartition(".")[0]
    others = [g.norm() for other, g in gradients.items() if other.rpartition(".")[0] == norm and g.numel() > 1]
    return gradients[name].norm() / max(others, default=gradients[name].norm())


@pytest.mark.slow
def test_weights_of_sharded_norms_move_to_another_layout(results: dict[str, dict[str, Any]]) -> None:
    here, there = results["sub-tp2sp-on-tp2sp"]["losses"][0], results["sub-tp2sp-on-one"]["losses"][0]
    assert abs(here - there) <= LOSS_BOUND
    assert abs(here - results["sub-one"]["losses"][0]) > 0.1, "they are not the weights that were learned"
