"""Time by formula: beside published runs, and what it follows."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.estimate_published import RUNS, formula_teraflops
from ibnorm_megatron.config import load_config
from ibnorm_megatron.estimate.speed import LINK_SHARE, Cluster, bandwidth, speed
from ibnorm_megatron.train.gpus import GPUS, gpu_of

A100 = Cluster(GPUS["A100"])


def test_published_runs_of_large_models_are_within_a_fifth() -> None:
    errors = {f"{run.source} {run.name}": formula_teraflops(run) / run.teraflops - 1 for run in RUNS}
    large = {name: error for name, error in errors.items() if not name.endswith(("1.7B", "3.6B"))}
    assert len(large) >= 12
    assert all(abs(error) < 0.2 for error in large.values()), large
    assert statistics.median(map(abs, large.values())) < 0.1


def test_a_step_is_its_parts() -> None:
    config = load_config("configs/llama_7b.yaml", world_size=8)
    found = speed(config, 8, A100)
    whole = found.to_dict()
    names = ("matrices", "norms", "tensor", "context", "pipeline", "bubble", "gradients", "optimizer")
    assert sum(whole[name] for name in names) == pytest.approx(found.step)
    assert found.tokens_per_second == pytest.approx(found.tokens / found.step)
    assert found.days(86_400 * found.tokens_per_second) == pytest.approx(1)
    assert found.mfu == pytest.approx(found.flops / found.step / 8 / 312e12)


def test_time_follows_what_a_config_and_a_cluster_say() -> None:
    def step(*overrides: str, cluster: Cluster = A100, world: int = 16) -> float:
        return speed(load_config("configs/llama_7b.yaml", overrides, world_size=world), world, cluster).step

    own = step()
    assert step("parallel.recompute=full") > 1.2 * own > step("parallel.recompute=selective") > own
    assert step(cluster=Cluster(GPUS["H100"])) < own / 2
    assert step(cluster=Cluster(GPUS["A100"], efficiency=0.3)) > 1.8 * own
    assert step(cluster=Cluster(GPUS["A100"], network=1e9)) > own
    assert step("model.norm=layernorm") > own  # which moves the statistics of a mean too
    staged = ["parallel.tensor=1", "parallel.sequence=false", "parallel.pipeline=4", "parallel.zero_stage=2"]
    few = ["train.global_batch_size=16", "train.micro_batch_size=1"]
    found = speed(load_config("configs/llama_7b.yaml", [*staged, *few], world_size=16), 16, A100)
    busy = found.matrices + found.norms
    assert found.bubble == pytest.approx(busy * 3 / 4)  # (p - 1) / m of 4 stages and 4 micro-batches


def test_a_group_within_a_node_has_its_links_and_another_the_network() -> None:
    config = load_config("configs/llama_7b.yaml", ["parallel.tensor=4"], world_size=32)
    gpu = GPUS["A100"]
    assert bandwidth("tensor", 4, config, 32, A100) == LINK_SHARE * gpu.link
    # Two replicas of a node share a ring through four nodes, over two adapters.
    assert bandwidth("replicas", 8, config, 32, A100) == LINK_SHARE * 2 * gpu.network
    assert bandwidth("replicas", 2, config, 8, A100) == LINK_SHARE * gpu.link
    # Stages lie furthest apart: of two nodes, the first half of them in one and the rest in the other.
    assert bandwidth("pipeline", 4, config, 16, A100) == LINK_SHARE * gpu.network
    assert bandwidth("pipeline", 2, config, 8, A100) == LINK_SHARE * gpu.link


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
    ],
)
def test_a_gpu_is_told_by_pytorchs_name(device: str, name: str) -> None:
    found = gpu_of(device)
    assert found is not None and found.half == GPUS[name].half
    assert gpu_of("Tesla V100-SXM2-16GB") is None
