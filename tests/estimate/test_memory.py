"""Memory by formula: beside papers, beside itself, and beside processes that train."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.estimate_published import gpt
from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.estimate.activations import Activations
from ibnorm_megatron.estimate.memory import memory, memory_of_stage
from ibnorm_megatron.estimate.states import States
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.train.config import TrainConfig

from ..distributed import command

#: Layers, hidden size, heads: Korthikanti et al., arXiv 2205.05198, table 3.
SHAPES = {"22B": (48, 6144, 64), "175B": (96, 12288, 96), "530B": (105, 20480, 128), "1T": (128, 25600, 160)}


def config_of(layers: int, hidden: int, heads: int, *, train: dict[str, Any] | None = None, **layout: Any) -> Config:
    """A GPT of the papers, with dropout."""
    given = {
        "steps": 1,
        "sequence_length": 2048,
        "global_batch_size": 64,
        "micro_batch_size": 1,
        "precision": "bf16",
        "lr": 1e-4,
    }
    return Config(
        model=gpt(layers, hidden, heads, dropout=0.1),
        parallel=Layout(**layout),
        train=TrainConfig(**{**given, **(train or {})}),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_layers_activations_are_those_of_korthikanti(name: str) -> None:
    """Their table 2, with the attention's scores left out, which flash attention does not keep: s b h (10 + 24 / t) bytes, and
    34 s b h / t with sequence parallelism; 2 s b h where a layer is computed again."""
    layers, hidden, heads = SHAPES[name]
    sbh, tensor = 2048 * hidden, 8
    plain = Activations(config_of(layers, hidden, heads, tensor=tensor), tensor, 0, "gpu")
    assert plain.layers[0].kept == pytest.approx(sbh * (10 + 24 / tensor), rel=0.005)
    sequence = Activations(config_of(layers, hidden, heads, tensor=tensor, sequence=True), tensor, 0, "gpu")
    assert sequence.layers[0].kept == pytest.approx(34 * sbh / tensor, rel=0.005)
    full = Activations(config_of(layers, hidden, heads, tensor=tensor, recompute="full"), tensor, 0, "gpu")
    assert full.kept == layers * 2 * sbh
    # Their stages hold activations of as many micro-batches as there are stages behind them, and the first of the most.
    staged = config_of(
        layers, hidden, heads, tensor=tensor, sequence=True, pipeline=layers // 3 if layers % 8 else 8, zero_stage=2
    )
    stages = staged.parallel.pipeline
    first = Activations(staged, tensor * stages, 0, "gpu")
    assert first.in_flight * first.kept == pytest.approx(34 * sbh * layers / tensor, rel=0.005)


def test_model_states_are_those_of_the_zero_paper() -> None:
    """Rajbhandari et al., arXiv 1910.02054, figure 1: a 7.5B model on 64 GPUs, 120, 31.4, 16.6 and 1.9 GB."""
    for stage, published in ((1, 31.4), (2, 16.6), (3, 1.9)):
        config = config_of(36, 4096, 32, zero_stage=stage, deepspeed={"zero_optimization": {"contiguous_gradients": False}})
        states = States(config, 64, 0, "gpu")
        gradients = states.grown(states.elements) if stage == 1 else states.partition + states.gradients
        if stage == 2:
            gradients = states.element * states.share
        held = states.weights + states.masters + states.moments + gradients
        assert held / states.elements * 7.5 == pytest.approx(published, rel=0.02)
    whole = States(config_of(36, 4096, 32, train={"precision": "fp32"}, zero_stage=0), 64, 0, "gpu")
    assert whole.weights + whole.moments + whole.grown(whole.elements) == 16 * whole.elements


def test_every_moment_is_the_sum_of_its_parts_and_the_peak_is_the_fullest() -> None:
    config = load_config("configs/llama_7b.yaml", world_size=8)
    found = memory(config, 8)
    assert found.peak == sum(found.parts.values()) == found.moments[found.moment]
    assert all(size >= 0 for size in found.moments.values())
    assert found.norms < found.activations
    assert found.to_dict()["peak"] == found.peak


def test_memory_follows_what_a_config_says() -> None:
    def held(*overrides: str, world: int = 8) -> int:
        return memory(load_config("configs/llama_7b.yaml", overrides, world_size=world), world).peak

    own = held()
    assert held("parallel.recompute=full") < held("parallel.recompute=selective") <= own
    assert held("train.micro_batch_size=1") < own < held("train.micro_batch_size=4")
    assert held("parallel.tensor=4") < own < held("parallel.tensor=1", "parallel.sequence=false")
    assert held("parallel.sequence=false") > own
    assert held("parallel.zero_stage=3") < held("parallel.zero_stage=2") < own
    assert held("train.precision=fp32") > own
    assert held(world=64) < own
    assert held("model.norm_placement=sub") > own  # two more norms a layer, with inputs of their own
    assert held("parallel.offload_optimizer=true") < own


def test_an_offloaded_optimizer_is_on_the_host() -> None:
    config = load_config("configs/llama_7b.yaml", ["parallel.offload_optimizer=true"], world_size=8)
    found = memory(config, 8)
    share = States(config, 8, 0, "gpu").share
    assert found.host > 16 * share and "optimizer moments" not in found.parts
    assert memory(load_config("configs/llama_7b.yaml", world_size=8), 8).host == 0


def test_a_first_stage_holds_activations_of_as_many_micro_batches_as_there_are_stages() -> None:
    overrides = ["parallel.tensor=1", "parallel.sequence=false", "parallel.pipeline=4", "parallel.zero_stage=2"]
    config = load_config("configs/llama_7b.yaml", overrides, world_size=4)
    first, last = (Activations(config, 4, stage, "gpu") for stage in (0, 3))
    assert first.in_flight == 4 and last.in_flight == 1
    assert memory_of_stage(config, 4, 0).activations > 3 * memory_of_stage(config, 4, 3).activations


@pytest.mark.slow
def test_the_formula_is_within_a_tenth_of_what_processes_hold(tmp_path: Path) -> None:
    cases = ["ibnorm_log, bf16", "2 replicas, ZeRO 2, bf16", "tensor 2 + sequence, bf16"]
    arguments = ["-m", "benchmarks.estimate", "--resident", "--out", tmp_path / "found", "--cases", *cases]
    done = command(sys.executable, *arguments, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]
    with (tmp_path / "found.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["config"] for line in lines] == cases
    for line in lines:
        assert int(line["resident_bytes"]) > 100 * 2**20  # tensors, and not what libraries hold
        assert int(line["formula_bytes"]) == pytest.approx(int(line["resident_bytes"]), rel=0.1), line["config"]
