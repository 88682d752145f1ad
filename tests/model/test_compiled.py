"""model.compile=layers is the eager model: loss, every gradient, names, hooks, recomputation, tensor parallelism."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.tensor_parallel import checkpoint
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from torch import Tensor, nn
from torch._dynamo.utils import counters

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model.compiled import uncompiled
from ibnorm_megatron.model.cross_entropy import cross_entropy
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.engine import Engine, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.train.optimizer import build_optimizer

from ..distributed import run_ranks

VOCABULARY, LENGTH, BATCH = 300, 48, 2  # 300 of 384 columns: padding is there to be masked


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[Groups]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        yield groups


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


def _config(compiled: bool, *overrides: str, precision: str = "fp32", name: str = "tiny_llama") -> Config:
    own = [f"model.compile={'layers' if compiled else 'none'}", f"model.vocab_size={VOCABULARY}"]
    own += [f"train.precision={precision}", f"train.sequence_length={LENGTH}"]
    return load_config(f"configs/{name}.yaml", [*own, *overrides])


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator) for _ in range(2))
    mask = (torch.rand(BATCH, LENGTH, generator=generator) > 0.2).float()
    return {"tokens": tokens, "labels": labels, "loss_mask": mask, "position_ids": torch.arange(LENGTH).expand(BATCH, -1)}


def _model(config: Config, groups: Groups) -> LanguageModel:
    return LanguageModel(config.model, groups, config.train.precision, 1)


def _gradients(module: nn.Module) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(7)  # of norms that draw
    module.zero_grad()
    loss = module(**_batch())
    loss.backward()
    return float(loss.detach()), {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def _assert_same(eager: dict[str, Tensor], compiled: dict[str, Tensor], bound: float) -> None:
    assert eager.keys() == compiled.keys()
    for name, gradient in eager.items():
        off = float((gradient.double() - compiled[name].double()).norm() / gradient.double().norm())
        assert off <= bound, (name, off)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("tiny_llama", ["model.norm=rmsnorm"]),
        ("tiny_llama", ["model.norm=ibnorm_log", "model.qk_norm=per_head", "model.norm_placement=peri"]),
        ("tiny_llama", ["model.norm=normalnorm"]),
        ("tiny_gpt2", ["model.norm=ibnorm_tanh", "model.dropout=0"]),
    ],
)
def test_loss_and_gradients_are_those_of_the_eager_model(groups: Groups, name: str, overrides: list[str]) -> None:
    """Seen: losses 1e-7 and gradients 2e-6 apart, in relation to their size."""
    eager, compiled = (_model(_config(how, *overrides, name=name), groups) for how in (False, True))
    assert list(eager.state_dict()) == list(compiled.state_dict())
    (its_loss, its), (loss, own) = (_gradients(module) for module in (eager, compiled))
    assert loss == pytest.approx(its_loss, rel=1e-6)
    _assert_same(its, own, 1e-5)


@pytest.mark.slow
def test_layers_share_their_code_and_evaluation_is_the_same(groups: Groups) -> None:
    before = counters["stats"]["unique_graphs"]
    eager, compiled = (_model(_config(how, "model.num_layers=5"), groups) for how in (False, True))
    _gradients(compiled)
    assert counters["stats"]["unique_graphs"] == before + 2, "one for all layers and one for the loss"
    with torch.no_grad():
        losses = [float(module.eval()(**_batch())) for module in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.slow
def test_more_kinds_of_layers_than_torch_compiles_by_default(groups: Groups) -> None:
    """A norm with a factor of its own in every layer makes ten codes; torch's limit is eight."""
    overrides = ["model.norm=layernorm_scaling", "model.scale_residual_init=false", "model.num_layers=10"]
    before = counters["stats"]["unique_graphs"]
    _gradients(_model(_config(True, *overrides), groups))
    assert counters["stats"]["unique_graphs"] == before + 11


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_under_deepspeed_is_the_same(groups: Groups, precision: str) -> None:
    """Three steps of ZeRO-1 with two micro-batches; bf16 rounds where code is cut, which differs."""
    curves, names, first = [], [], []
    for compiled in (False, True):
        config = _config(compiled, "model.norm=ibnorm_log", precision=precision)
        module = _model(config, groups)
        settings = deepspeed_config(Layout(), config.train.precision, micro_batch_size=BATCH, micro_batches=2, grad_clip=1.0)
        engine = Engine(module, build_optimizer(module, config.train), groups, settings, 1.0)
        curve: list[float] = []
        for _ in range(3):
            curve.append(float(engine.forward_backward([_batch(), _batch()], 1 / (2 * BATCH * LENGTH))))
            curve.append(float(engine.step().grad_norm))
            engine.set_learning_rate(1e-3)
        curves.append(curve)
        names.append(list(engine.deepspeed.module.state_dict()))
        first.append(curve[1])
        engine.close()
    assert names[0] == names[1]
    assert curves[1] == pytest.approx(curves[0], rel=2e-5 if precision == "fp32" else 1e-2)
    assert curves[0][-2] < curves[0][0]


@pytest.mark.slow
def test_a_recomputed_layer_finds_its_random_numbers(groups: Groups) -> None:
    """A layer under megatron-core's checkpointing drops the same activations when it is computed again."""
    module = _model(_config(True, "model.dropout=0.3"), groups)
    layer = module.gpt.decoder.layers[0]
    x = torch.randn(LENGTH, BATCH, 64, generator=torch.Generator().manual_seed(1))
    tracker = get_cuda_rng_tracker()  # of attention's dropout
    states, found = tracker.get_states(), []
    for call in (lambda x: layer(x, None)[0], lambda x: checkpoint(lambda x: layer(x, None)[0], False, x)):
        torch.manual_seed(3)
        tracker.set_states(dict(states))
        leaf = x.clone().requires_grad_()
        y = call(leaf)
        y.square().sum().backward()
        found.append((y.detach(), leaf.grad))
    assert 0.03 < float((found[0][0] == x).float().mean()) < 0.15, "both of two dropouts drop 9 %"
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5)


def test_hooks_see_the_norms_of_a_compiled_model(groups: Groups) -> None:
    module = _model(_config(True), groups)
    seen: list[Any] = []
    for norm in norms_of(module).values():
        norm.register_forward_pre_hook(lambda norm, arguments: seen.append(norm.site))
    with uncompiled(), torch.no_grad():
        module(**_batch())
    assert set(seen) == set(norms_of(module))


def test_the_loss_is_that_of_the_columns_that_can_be_predicted() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 2, 12, generator=generator, dtype=torch.float32, requires_grad=True)
    labels = torch.randint(9, (2, 5), generator=generator)
    losses = cross_entropy(logits, labels, 9)
    probabilities = logits[..., :9].softmax(-1)
    expected = -probabilities.gather(-1, labels.t()[..., None])[..., 0].log()
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient[..., 9:].eq(0).all() and gradient[..., :9].ne(0).all()


@pytest.mark.slow
def test_tensor_parallel_layers_are_the_same(tmp_path: Path, prepared: Path) -> None:
    """Two ranks: the vocabulary is shared, collectives break the graphs, and the curve is the eager one."""
    common = [
        f"data.path={prepared}", "model.vocab_size=512", "train.steps=3", "train.lr=1e-3", "log.console=false",
        "parallel.tensor=2", "model.norm=ibnorm_log",
    ]  # fmt: skip
    layouts = {"tp": [], "sp": ["parallel.sequence=true"]}
    cases = {
        f"{name}-{how}": ["configs/tiny_llama.yaml", *common, *own, f"run.dir={tmp_path / how}", f"model.compile={how}"]
        for name, own in layouts.items()
        for how in ("none", "layers")
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, "tests.workers.layouts", tmp_path / "cases.json", tmp_path, timeout=600)
    found = {name: torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in cases}
    for name in layouts:
        eager, compiled = found[f"{name}-none"], found[f"{name}-layers"]
        assert compiled["losses"] == pytest.approx(eager["losses"], rel=1e-6)
        assert compiled["replica_spread"] == 0.0
        _assert_same(eager["gradients"], compiled["gradients"], 1e-5)
