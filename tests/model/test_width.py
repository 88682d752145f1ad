"""muP: at the base width it is nothing, and elsewhere every factor of its table; and it does what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose

import pytest
import torch
from torch import Tensor

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.width import width_ratio
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.engine import Engine, deepspeed_config
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group
from ibnorm_megatron.train.optimizer import build_optimizer

VOCABULARY, LENGTH, BATCH, STEPS = 300, 32, 4, 3
MATRICES = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


@pytest.fixture(scope="module", autouse=True)
def groups() -> Iterator[Groups]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1) as groups:
        yield groups


def _config(*overrides: str, name: str = "tiny_llama") -> Config:
    own = [f"model.vocab_size={VOCABULARY}", f"train.sequence_length={LENGTH}", "model.norm=ibnorm_log", "model.dropout=0"]
    return load_config(f"configs/{name}.yaml", [*own, *overrides])


def _model(config: Config, groups: Groups) -> LanguageModel:
    return LanguageModel(config.model, groups, config.train.precision, 1)


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator) for _ in range(2))
    mask, positions = torch.ones(BATCH, LENGTH), torch.arange(LENGTH).expand(BATCH, -1)
    return {"tokens": tokens, "labels": labels, "loss_mask": mask, "position_ids": positions}


def _trained(
    config: Config, groups: Groups, stage: int, steps: int
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradient norms of some steps, and all weights before and after them."""
    module = _model(config, groups)
    settings = deepspeed_config(Layout(zero_stage=stage), "fp32", micro_batch_size=BATCH, micro_batches=1, grad_clip=1.0)
    engine = Engine(module, build_optimizer(module, config.train), groups, settings, 1.0)
    before = {name: engine.weight(parameter) for name, parameter in module.logical_parameters().items()}
    seen = []
    for _ in range(steps):
        engine.set_learning_rate(config.train.lr)
        seen.append(float(engine.forward_backward([_batch()], 1 / (BATCH * LENGTH))))
        seen.append(float(engine.step().grad_norm))
    after = {name: engine.weight(parameter) for name, parameter in module.logical_parameters().items()}
    engine.close()
    return seen, before, after


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_at_the_base_width_everything_is_as_without(groups: Groups, name: str) -> None:
    plain, at_base = (_trained(_config(f"model.mup_base_width={base}", name=name), groups, 1, STEPS) for base in (0, 64))
    assert plain[0] == at_base[0]
    for one, other in zip(plain[1:], at_base[1:], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_initial_weights_and_logits(groups: Groups, name: str) -> None:
    """Four times as wide as the base: matrices of layers are half as large, and logits a quarter."""
    plain, wide = (_model(_config(f"model.mup_base_width={base}", name=name), groups) for base in (0, 16))
    scaled = 0
    for (key, one), other in zip(plain.logical_parameters().items(), wide.logical_parameters().values(), strict=True):
        factor = 0.5 if any(matrix in key for matrix in MATRICES) and one.dim() > 1 else 1.0
        scaled += factor == 0.5
        torch.testing.assert_close(other, factor * one, rtol=1e-6, atol=0, msg=key)
        assert width_ratio(other) == (4.0 if factor == 0.5 else 1.0)
    assert scaled == 2 * len(MATRICES)
    hidden = torch.randn(LENGTH, BATCH, 64, generator=torch.Generator().manual_seed(1))
    weight = None if plain.gpt.output_layer.weight is not None else plain.gpt.shared_embedding_or_output_weight()
    logits = [model.gpt.output_layer(hidden, weight=weight)[0] for model in (plain, wide)]
    torch.testing.assert_close(logits[1], logits[0] / 4)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_of_adamw(groups: Groups, stage: int) -> None:
    """Adam's first step is the learning rate times the gradient's sign where eps is nothing; a weight decays alike everywhere."""
    rate = 2.0**-7
    given = [f"train.lr={rate}", "train.adam_eps=1e-30", "train.weight_decay=0.5", "model.mup_base_width=16"]
    _, before, after = _trained(_config(*given), groups, stage, 1)
    for name, weight in before.items():
        matrix = any(part in name for part in MATRICES)
        decayed = weight * (1 - rate * 0.5) if weight.dim() > 1 else weight
        moved = (after[name] - decayed).abs()
        seen = moved > rate / 100  # the embedding of a token that is not there stays
        assert seen.any()
        torch.testing.assert_close(
            moved[seen], torch.full_like(moved[seen], rate / 4 if matrix else rate), rtol=2e-3, atol=1e-6
        )


def test_learning_rate_times_decay_is_that_of_the_base(groups: Groups) -> None:
    config = _config("model.mup_base_width=16")
    found = build_optimizer(_model(config, groups), config.train).param_groups
    assert [(group["lr_factor"], group["weight_decay"] > 0) for group in found] == [(1, True), (0.25, True), (1, False)]
    for group in found[:2]:
        assert isclose(group["lr"] * group["weight_decay"], config.train.lr * config.train.weight_decay)
        assert isclose(group["lr"], config.train.lr * group["lr_factor"])


def _change(groups: Groups, width: int, base: int) -> dict[str, float]:
    """By how much a few steps change what a layer adds to the residual stream, and the logits: root mean squares."""
    shape = [f"model.hidden_size={width}", f"model.num_attention_heads={width // 16}", f"model.ffn_hidden_size={3 * width}"]
    config = _config(*shape, "model.num_key_value_heads=0", f"model.mup_base_width={base}", "train.lr=4e-3")
    module = _model(config, groups)
    optimizer = build_optimizer(module, config.train)
    places = {"attention": module.gpt.decoder.layers[1].self_attention, "mlp": module.gpt.decoder.layers[1].mlp}
    places["logits"] = module.gpt.output_layer
    seen: dict[str, list[Tensor]] = {name: [] for name in places}
    for name, place in places.items():
        place.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output[0].detach().double()))
    for _ in range(5):
        optimizer.zero_grad()
        (module(**_batch()) / (BATCH * LENGTH)).backward()
        optimizer.step()
    return {name: float((outputs[-1] - outputs[0]).square().mean().sqrt()) for name, outputs in seen.items()}


def test_coordinates_change_alike_at_every_width(groups: Groups) -> None:
    """The coordinate check of Yang et al., appendix D.1."""
    widths = (64, 128, 256)
    by_base = {base: [_change(groups, width, base) for width in widths] for base in (0, 64)}
    for base, found in by_base.items():
        for place in found[0]:
            print(base, place, [round(change[place], 4) for change in found])
    for place in by_base[0][0]:
        standard, mup = ([change[place] for change in by_base[base]] for base in (0, 64))
        assert standard[0] == mup[0], "one is the other at the base"
        assert max(mup) / min(mup) < 1.5, (place, mup)
        assert standard[2] / standard[0] > 2, (place, standard)
