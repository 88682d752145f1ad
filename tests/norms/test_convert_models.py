"""Models of transformers, built from small configs: what they compute after a conversion, and that they train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ibnorm_megatron.norms import IBBatchNorm, IBNorm, Norm, convert_norms

WIDTH, TOKENS = 32, 61
_SIZES: dict[str, Any] = {
    "vocab_size": TOKENS,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def _llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**_SIZES))


def _qwen() -> nn.Module:
    return Qwen3ForCausalLM(Qwen3Config(**_SIZES))


def _gpt2() -> nn.Module:
    sizes = {"vocab_size": TOKENS, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def _resnet() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=3, **sizes))


def _vit() -> nn.Module:
    sizes = {"image_size": 12, "patch_size": 4, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(num_channels=1, num_labels=3, intermediate_size=48, **sizes))


#: How it is built, its norms' class, how many of them it has, and what its class becomes in their places.
MODELS: dict[str, tuple[Callable[[], nn.Module], type[nn.Module], int, type[Norm]]] = {
    "llama": (_llama, LlamaRMSNorm, 5, IBNorm),
    "qwen3": (_qwen, Qwen3RMSNorm, 9, IBNorm),
    "gpt2": (_gpt2, nn.LayerNorm, 5, IBNorm),
    "resnet": (_resnet, nn.BatchNorm2d, 8, IBBatchNorm),
    "vit": (_vit, nn.LayerNorm, 5, IBNorm),
}
VISION = ("resnet", "vit")


def _built(name: str, seed: int = 0) -> nn.Module:
    """The model with norm weights that are not all ones and zeros."""
    torch.manual_seed(seed)
    model = MODELS[name][0]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, MODELS[name][1]):
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.train()


def _inputs(name: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name in VISION:
        return torch.randn(6, 1, *[12 if name == "vit" else 32] * 2, generator=generator)
    return torch.randint(TOKENS, (3, 17), generator=generator)


def _loss(name: str, model: nn.Module, x: Tensor) -> Tensor:
    if name in VISION:
        return nn.functional.cross_entropy(model(x).logits, torch.arange(len(x)) % 3)
    return nn.functional.cross_entropy(model(x).logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())


@pytest.mark.parametrize("name", MODELS)
def test_identity_leaves_everything_equal(name: str) -> None:
    """Outputs in training and evaluation, gradients, running statistics: float32, so equal to rounding."""
    theirs = _built(name)
    ours = copy.deepcopy(theirs)
    _, old, count, new = MODELS[name]
    report = convert_norms(ours, {old: "ibnorm_identity"})
    assert len(report) == count == sum(isinstance(module, new) for module in ours.modules())
    assert not any(isinstance(module, old) for module in ours.modules())
    assert dict(ours.named_parameters()).keys() == dict(theirs.named_parameters()).keys()
    for step, training in enumerate((True, True, False)):
        found = []
        for model in (theirs.train(training), ours.train(training)):
            model.zero_grad()
            _loss(name, model, _inputs(name, step)).backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            logits = model.eval()(_inputs(name, 9)).logits.detach()
            found.append((gradient, logits, dict(model.named_buffers())))
        for a, b in zip(found[0][:2], found[1][:2], strict=True):
            assert float((a - b).norm() / a.norm()) < 2e-6
        for buffer, value in found[0][2].items():
            torch.testing.assert_close(found[1][2][buffer], value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("norm", ["ibnorm_log", {"kind": "ibnorm_tanh", "lambda": 1.0, "scale": "relative"}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_computes_something_else_and_trains(name: str, norm: Any, tmp_path: Path) -> None:
    model = _built(name)
    before = model.eval()(_inputs(name)).logits.detach()
    convert_norms(model, {MODELS[name][1]: norm})
    assert float((model(_inputs(name)).logits.detach() - before).norm() / before.norm()) > 1e-4
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = _loss(name, model, _inputs(name))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0], losses

    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = _built(name, seed=1)
    convert_norms(other, {MODELS[name][1]: norm})
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.eval()(_inputs(name, 2)).logits, model.eval()(_inputs(name, 2)).logits)


def test_gemmas_gain_is_refused_and_kept() -> None:
    torch.manual_seed(0)
    model = GemmaForCausalLM(GemmaConfig(**_SIZES)).eval()
    with torch.no_grad():
        model.model.norm.weight.add_(torch.randn(WIDTH), alpha=0.3)
    expected = model(_inputs("gemma")).logits
    with pytest.raises(ValueError, match=r"model.norm is GemmaRMSNorm.*: its gain is 1 \+ weight") as refused:
        convert_norms(model, {GemmaRMSNorm: "ibnorm_identity"})
    assert len(str(refused.value).splitlines()) == 5
    convert_norms(model, {GemmaRMSNorm: {"kind": "rmsnorm", "unit_offset": True}})
    torch.testing.assert_close(model(_inputs("gemma")).logits, expected, rtol=2e-6, atol=2e-6)
