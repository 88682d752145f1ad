"""What is built from a config: our norm at all five places, initial weights, masked vocabulary, attention."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ibnorm_megatron.config import Config, load_config
from ibnorm_megatron.model.attention import CoreAttention
from ibnorm_megatron.model.language_model import LanguageModel
from ibnorm_megatron.model.norm_slots import norms_of
from ibnorm_megatron.model.spec import check_norms, norm_slots, transformer_config
from ibnorm_megatron.norms import IBNorm, Site, norm_names
from ibnorm_megatron.parallel.config import Layout
from ibnorm_megatron.parallel.groups import Groups, World, model_parallel, process_group


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    with process_group(World(0, 1, 0)), model_parallel(Layout(), 1):
        yield


def _build(config: Config, seed: int = 1) -> LanguageModel:
    return LanguageModel(config.model, Groups.current(config.parallel), config.train.precision, seed)


def _config(*overrides: str, name: str = "tiny_llama") -> Config:
    return load_config(f"configs/{name}.yaml", overrides)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_our_norm_is_at_all_five_places(name: str) -> None:
    module = _build(_config("model.norm=ibnorm_log", "model.qk_norm=true", name=name))
    norms = norms_of(module)
    expected = {Site(site, layer) for layer in range(2) for site in ("attn_in", "q", "k", "mlp_in")} | {Site("final")}
    assert set(norms) == expected
    assert all(type(norm) is IBNorm for norm in norms.values())
    layer = module.gpt.decoder.layers[1]
    assert layer.input_layernorm is norms[Site("attn_in", 1)]
    assert layer.self_attention.q_layernorm is norms[Site("q", 1)]
    assert layer.self_attention.k_layernorm is norms[Site("k", 1)]
    assert layer.pre_mlp_layernorm is norms[Site("mlp_in", 1)]
    assert module.gpt.decoder.final_layernorm is norms[Site("final")]


def test_a_stray_norm_is_noticed() -> None:
    config = _config("model.norm=ibnorm_log")
    module = _build(config)
    wanted = norm_slots(config.model, Groups.current(config.parallel))
    check_norms(module, wanted)
    module.gpt.decoder.final_layernorm = torch.nn.LayerNorm(64)
    with pytest.raises(AssertionError):
        check_norms(module, wanted)
    module = _build(config)
    module.gpt.decoder.extra = torch.nn.RMSNorm(64)
    with pytest.raises(AssertionError, match=r"decoder\.extra"):
        check_norms(module, wanted)


def test_arms_share_all_tensors_but_the_norms() -> None:
    arms = [_build(_config(f"model.norm={norm}")) for norm in ("rmsnorm", "layernorm", "ibnorm_tanh")]
    in_norms = [{id(p) for norm in norms_of(arm).values() for p in norm.parameters()} for arm in arms]
    others = [
        {name: p for name, p in arm.named_parameters() if id(p) not in inside}
        for arm, inside in zip(arms, in_norms, strict=True)
    ]
    assert others[0].keys() == others[1].keys() == others[2].keys()
    assert len(others[0]) == 2 + 2 * 4
    for name, tensor in others[0].items():
        assert all(torch.equal(tensor, other[name]) for other in others[1:]), name


def test_initial_weights_have_the_configured_spread_and_follow_the_seed() -> None:
    first, again, other = (_build(_config(), seed) for seed in (1, 1, 2))
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() > 1:
            assert not torch.equal(a, c)
            writes = "linear_proj" in name or "linear_fc2" in name
            wanted = 0.02 / 2 if writes else 0.02  # two layers: sqrt(2 * 2)
            assert float(a.detach().std()) == pytest.approx(wanted, rel=0.05), name


def test_padding_of_the_vocabulary_does_not_change_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(0, 1000, (2, 32), generator=torch.Generator().manual_seed(0))
    ones, positions = torch.ones(2, 32), torch.arange(32).expand(2, -1)
    losses = []
    for multiple in (1, 128, 4096):
        monkeypatch.setattr("ibnorm_megatron.model.config.VOCAB_ROWS_MULTIPLE", multiple)
        module = _build(_config("model.vocab_size=1000"))
        losses.append(float(module(tokens, tokens, ones, positions).detach()))
        assert module.gpt.output_layer.weight.shape[0] % multiple == 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) == pytest.approx(losses[2], rel=1e-6)


def test_loss_is_the_sum_over_unmasked_labels() -> None:
    module = _build(_config())
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, 1024, (2, 16), generator=generator) for _ in range(2))
    mask = (torch.rand(2, 16, generator=generator) > 0.3).float()
    positions = torch.arange(16).expand(2, -1)
    logits = module.gpt(tokens, positions, None).detach()
    by_hand = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    ours = float(module(tokens, labels, mask, positions).detach())
    assert ours == pytest.approx(float((by_hand * mask.flatten()).sum()), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [name for name in norm_names() if name != "none"])
def test_a_token_does_not_see_what_comes_after_it(norm: str, training: bool) -> None:
    module = _build(_config(f"model.norm={norm}", "model.qk_norm=true", "model.scale_residual_init=false"))
    tokens = torch.randint(0, 1024, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 1024
    positions = torch.arange(16)[None]
    module.train()(tokens, tokens, torch.ones(1, 16), positions)
    for child in norms_of(module).values():  # norms with statistics over tokens have some by now
        child.set_step(1, 2)
    logits = []
    for seen in (tokens, changed):
        torch.manual_seed(0)
        logits.append(module.train(training).gpt(seen, positions, None).detach())
    before, after = logits
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=0)
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_noise_is_new_in_every_pass_and_site_and_the_same_where_a_layer_is_computed_again() -> None:
    module = _build(_config("model.norm=normalnorm"))
    norms = norms_of(module)
    tokens, x = torch.zeros(1, 16, dtype=torch.int64), torch.randn(16, 1, 64)
    seen = []
    for _ in range(2):
        module.gpt(tokens, torch.arange(16)[None], None)
        first, again = ([norm(x) for norm in norms.values()] for _ in range(2))
        assert all(map(torch.equal, first, again))
        seen += first
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_core_attention_is_softmax_attention(kv_heads: int) -> None:
    config = _config(f"model.num_key_value_heads={kv_heads}")
    attention = CoreAttention(transformer_config(config.model, config.parallel, "fp32"), 1, None, "self")
    s, b, heads, width = 12, 2, 4, 16
    q = torch.randn(s, b, heads, width)
    k, v = torch.randn(2, s, b, kv_heads, width)
    wide_k, wide_v = (t.repeat_interleave(heads // kv_heads, dim=2) for t in (k, v))
    scores = torch.einsum("sbhd,tbhd->bhst", q, wide_k) / width**0.5
    scores = scores.masked_fill(torch.ones(s, s).triu(1).bool(), float("-inf"))
    expected = torch.einsum("bhst,tbhd->sbhd", scores.softmax(-1), wide_v).reshape(s, b, heads * width)
    torch.testing.assert_close(attention(q, k, v), expected, rtol=1e-5, atol=1e-5)


def test_dropout_is_drawn_anew_and_off_in_evaluation() -> None:
    module = _build(_config("model.dropout=0.2"))
    tokens, mask = torch.zeros(1, 16, dtype=torch.int64), torch.ones(1, 16)
    once, again = (float(module(tokens, tokens, mask, torch.arange(16)[None]).detach()) for _ in range(2))
    module.eval()
    quiet, still = (float(module(tokens, tokens, mask, torch.arange(16)[None]).detach()) for _ in range(2))
    assert once != again
    assert quiet == still
