"""Shapes and sizes: published parameter counts, formulas against built models, FLOPs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._subclasses import FakeTensorMode

from ibnorm_megatron.config import load_config
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.norms import norm_names
from ibnorm_megatron.parallel.groups import World, model_parallel, process_group

#: Published sizes. LLaMA: GaLore's series (arXiv 2403.03507), OpenLLaMA 3B, LLaMA 7B and 13B (arXiv 2302.13971), Llama 3
#: 8B, Llama 2 70B; GPT-2: the four of the 2019 release.
PUBLISHED = {
    "llama_60m": 58_073_600,
    "llama_130m": 134_105_856,
    "llama_350m": 367_969_280,
    "llama_1b": 1_339_082_752,
    "llama_3b": 3_426_473_600,
    "llama_7b": 6_738_415_616,
    "llama_8b": 8_030_261_248,
    "llama_13b": 13_015_864_320,
    "llama_70b": 68_976_648_192,
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1.5b": 1_557_611_200,
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, size: int) -> None:
    assert sum(load_config(f"configs/{name}.yaml").model.num_params().values()) == size


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    with process_group(World(0, 1, 0)):
        yield


def _logical_parameters(name: str, *overrides: str) -> tuple[dict[str, int], dict[str, int]]:
    """Counts of the built model by part, and those of the formula. Built without memory, so the size does not matter."""
    config = load_config(f"configs/{name}.yaml", ["parallel.tensor=1", *overrides])
    padding = config.model.padded_vocab_size(1) - config.model.vocab_size
    with FakeTensorMode(allow_non_fake_inputs=True), model_parallel(config.parallel, 1) as groups:
        module = LanguageModel(config.model, groups, "fp32", 1)
    norms = {id(parameter) for norm in norms_of(module).values() for parameter in norm.parameters()}
    built = dict.fromkeys(config.model.num_params(), 0)
    for path, parameter in module.named_parameters():
        if id(parameter) in norms:
            part = "norms"
        elif "word_embeddings" in path or "output_layer" in path:
            part = "token embedding" if "word_embeddings" in path else "output head"
            built[part] -= padding * config.model.hidden_size
        elif "position_embeddings" in path:
            part = "position embedding"
        else:
            part = "attention" if "self_attention" in path else "mlp"
        built[part] += parameter.numel()
    return built, config.model.num_params()


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "quickstart", "llama_60m", "llama_8b", "gpt2_124m"])
def test_formula_counts_what_is_built(name: str) -> None:
    built, formula = _logical_parameters(name)
    assert built == formula


@pytest.mark.parametrize("norm", [*norm_names(), "{kind: layernorm, bias: false}", "{kind: rmsnorm, unit_offset: true}"])
def test_formula_counts_every_norm(norm: str) -> None:
    overrides = [f"model.norm={norm}", "model.qk_norm=true", "model.scale_residual_init=false"]
    built, formula = _logical_parameters("tiny_llama", *overrides)
    assert built == formula


def test_flops_of_a_token_are_those_of_its_matrix_products() -> None:
    """6 FLOPs a weight that multiplies, and the attention products counted from PyTorch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    config = load_config("configs/tiny_llama.yaml", ["model.vocab_size=1024", "model.num_key_value_heads=4"])
    length = 64
    with model_parallel(config.parallel, 1) as groups:
        module = LanguageModel(config.model, groups, "fp32", 1)
        tokens = torch.zeros(1, length, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            module(tokens, tokens, torch.ones(1, length), torch.arange(length)[None]).backward()
    attention = 12 * config.model.num_layers * config.model.hidden_size * length
    by_operator = counter.get_flop_counts()["Global"]
    products = sum(count for operator, count in by_operator.items() if "mm" in str(operator))
    assert products / length == config.model.flops_per_token(length) - attention
