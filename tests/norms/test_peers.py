"""Each peer against its paper's formula: where it starts, what it computes, what it keeps."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ibnorm_megatron.config import load_config
from ibnorm_megatron.errors import UserError
from ibnorm_megatron.norms import BatchNorm, Derf, DyT, L2Norm, LayerNorm, LayerNormScaling, NormalNorm, RMSNorm, Scale, Site
from ibnorm_megatron.norms.peers.noise import gaussian
from ibnorm_megatron.norms.peers.normal_norm import likelihood_slopes, yeo_johnson


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_dyt_and_derf_are_their_formulas() -> None:
    x, gamma, beta = _numbers(4, 8), _numbers(8), _numbers(8)
    for norm, expected in ((DyT, torch.tanh(0.7 * x)), (Derf, torch.erf(0.7 * x + 0.3))):
        module = norm(8, alpha=0.7).double()
        with torch.no_grad():
            module.weight.copy_(gamma), module.bias.copy_(beta), module.alpha.fill_(0.7)
            if norm is Derf:
                assert module.shift.item() == 0.0
                module.shift.fill_(0.3)
        torch.testing.assert_close(module(x), gamma * expected + beta, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("width", "site", "alpha"),
    [
        (64, Site("attn_in", 0), 1.0), (64, Site("final"), 1.0), (2048, Site("q", 3), 1.0), (2048, Site("mlp_in", 0), 0.5),
        (4096, Site("attn_out", 1), 0.8), (4096, Site("mlp_sub", 1), 0.2), (5120, Site("attn_in", 1), 0.6), (8192, None, 0.05),
        (16384, Site("attn_sub", 0), 0.2), (2896, Site("mlp_in", 0), math.sqrt(0.5 * 0.2)),
    ],
)  # fmt: skip
def test_alpha_starts_where_the_paper_has_it(width: int, site: Site | None, alpha: float) -> None:
    of_head = DyT(64, config=SimpleNamespace(hidden_size=width), site=site)
    assert of_head.alpha.item() == pytest.approx(alpha, rel=1e-3)
    assert DyT(width, site=site).alpha.item() == of_head.alpha.item()


@pytest.mark.parametrize("norm", ["dyt", "derf"])
def test_dyt_brings_its_embedding_scale(norm: str) -> None:
    sites = load_config("configs/tiny_llama.yaml", [f"model.norm={norm}"]).model.norm_sites()
    assert sites[Site("embedding")].kind == "scale"
    assert Scale(64).weight.tolist() == [8.0]


def test_layernorm_scaling_divides_by_the_root_of_the_layer() -> None:
    x = _numbers(3, 8)
    plain = LayerNorm(8).double()(x)
    for site, layer in ((Site("attn_in", 0), 1), (Site("mlp_in", 3), 4), (Site("q", 3), 1), (Site("final"), 1)):
        torch.testing.assert_close(LayerNormScaling(8, site=site).double()(x), plain / math.sqrt(layer), rtol=1e-12, atol=0)


def test_layernorm_scaling_is_refused_beside_a_scaled_initialization() -> None:
    with pytest.raises(UserError, match=r"set model\.scale_residual_init=false"):
        load_config("configs/tiny_llama.yaml", ["model.norm=layernorm_scaling"])
    with pytest.raises(UserError, match="layernorm_scaling"):
        load_config("configs/tiny_llama.yaml", ["model.norm={default: rmsnorm, layers.1: layernorm_scaling}"])
    load_config("configs/tiny_llama.yaml", ["model.norm=layernorm_scaling", "model.scale_residual_init=false"])


def test_l2norm_makes_rows_of_unit_length_and_starts_as_rmsnorm() -> None:
    x, module = _numbers(3, 64), L2Norm(64, eps=1e-12).double()
    torch.testing.assert_close(module(x), RMSNorm(64, eps=1e-12 / 64).double()(x), rtol=1e-12, atol=0)
    with torch.no_grad():
        module.weight.fill_(1)
    torch.testing.assert_close(module(x).norm(dim=-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_unit_offset_is_rmsnorm_with_a_gain_around_one(dtype: torch.dtype) -> None:
    x, w = _numbers(5, 16).to(dtype), _numbers(16).to(dtype) * 1e-3
    module, plain = RMSNorm(16, unit_offset=True).to(dtype), RMSNorm(16).double()
    assert not module.weight.any()
    with torch.no_grad():
        module.weight.copy_(w), plain.weight.copy_(1 + w.double())
    # 1 + w has no bf16; that y is this close shows that it was never rounded to one.
    torch.testing.assert_close(module(x), plain(x.double()).to(dtype), rtol=1e-12, atol=0)


def _standardized(x: Tensor) -> Tensor:
    c = x - x.mean(-1, keepdim=True)
    return c / c.square().mean(-1, keepdim=True).sqrt()


def test_the_power_transform_is_yeo_and_johnsons() -> None:
    h = torch.tensor([[-2.0, -1e-3, 0.0, 1e-3, 2.0]], dtype=torch.float64)
    expected = {
        0.0: lambda t: t.log1p() if t >= 0 else -((1 - t) ** 2 - 1) / 2,
        1.0: lambda t: t,
        2.0: lambda t: ((1 + t) ** 2 - 1) / 2 if t >= 0 else -(-t).log1p(),
        -0.7: lambda t: ((1 + t) ** -0.7 - 1) / -0.7 if t >= 0 else -((1 - t) ** 2.7 - 1) / 2.7,
    }
    for exponent, formula in expected.items():
        by_hand = torch.stack([formula(t) for t in h[0]])[None]
        found = yeo_johnson(h, torch.tensor([[exponent]], dtype=torch.float64))
        torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-15)


def test_the_likelihoods_slopes_are_its_finite_differences() -> None:
    h = _standardized(torch.cat([_numbers(20, 50), _numbers(20, 50, seed=1).exp(), -_numbers(20, 50, seed=2).square()]))

    def likelihood(exponent: float) -> Tensor:
        psi = yeo_johnson(h, torch.full_like(h[:, :1], exponent))
        jacobian = (h.sign() * h.abs().log1p()).mean(-1, keepdim=True)
        return psi.var(-1, correction=0, keepdim=True).log() / 2 - (exponent - 1) * jacobian

    low, mid, high = (likelihood(1 + step) for step in (-1e-3, 0.0, 1e-3))
    first, second = likelihood_slopes(h, lambda *values: [value.mean(-1, keepdim=True) for value in values])
    torch.testing.assert_close(first, (high - low) / 2e-3, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second, (high - 2 * mid + low) / 1e-6, rtol=1e-4, atol=1e-5)
    assert (second > 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_normalnorm_takes_skewness_away(sign: int) -> None:
    skewness = lambda rows: float(_standardized(rows.detach()).pow(3).mean(-1).abs().mean())  # noqa: E731
    module = NormalNorm(4096).double().eval()
    skewed, normal = sign * _numbers(20, 4096).exp().sqrt(), _numbers(20, 4096)
    assert skewness(skewed) > 1.5
    assert skewness(module(skewed)) < 0.3
    torch.testing.assert_close(module(normal), _standardized(normal), rtol=0, atol=0.35)


def test_normalnorms_noise_is_of_the_size_it_says_and_new_every_time() -> None:
    x = _numbers(64, 512)
    module = NormalNorm(512, noise=0.4).double()
    quiet = copy.deepcopy(module).eval()(x).detach()
    noise, other = (module(x) - quiet).detach(), (module(x) - quiet).detach()
    mad = (quiet - quiet.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True)
    assert float((noise / mad).std()) == pytest.approx(0.4, rel=0.02)
    assert abs(float((noise * other).mean() / noise.square().mean())) < 0.02
    module.set_seed(7)  # as a model does before a pass, which may be computed twice
    assert torch.equal(module(x), module(x))
    assert torch.equal(NormalNorm(512, noise=0.0).double()(x), quiet)


def test_hashed_noise_is_standard_normal_and_independent() -> None:
    z = gaussian(12345, torch.arange(500), torch.arange(400)).double()
    assert abs(float(z.mean())) < 0.01
    assert float(z.var()) == pytest.approx(1, abs=0.01)
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.08)
    nexts = [z.roll(1, 0), z.roll(1, 1), gaussian(12346, torch.arange(500), torch.arange(400)), z.roll((1, 1), (0, 1))]
    for other in nexts:
        assert abs(float((z * other).mean())) < 0.01
        assert abs(float((z.square() * other.square()).mean()) - 1) < 0.03
    part = gaussian(12345, torch.arange(100, 120), torch.arange(7, 300))
    assert torch.equal(part.double(), z[100:120, 7:300])


def test_batchnorm_keeps_averages_of_the_steps() -> None:
    module = BatchNorm(6, momentum=0.25).double()
    x = _numbers(2, 6)
    torch.testing.assert_close(module.eval()(x), x / math.sqrt(1 + 1e-5), rtol=1e-12, atol=0)  # before the first step
    steps = [3 + step + (1 + step) * _numbers(4, 7, 3, 6, seed=step) for step in range(3)]
    mean, variance = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    module.set_step(0, 3)
    for done, micro_batches in enumerate(steps, start=1):
        module.train()
        for micro_batch in micro_batches:
            module(micro_batch)
        module.eval()(100 * micro_batches)  # what is evaluated is not gathered
        module.set_step(done, 3)
        tokens = micro_batches.flatten(0, -2)
        mean = 0.75 * mean + 0.25 * tokens.mean(0)
        variance = 0.75 * variance + 0.25 * tokens.var(0, correction=0)
        for found, expected in zip(module.statistics(), (mean, variance), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    expected = (x - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_batchnorms_statistics_outlive_bf16_and_checkpoints_bit_for_bit() -> None:
    module, x = BatchNorm(6, momentum=1.0), _numbers(50, 6).float() * 3 + 100
    module(x), module.set_step(1, 9)
    torch.testing.assert_close(module.statistics()[1], x.double().var(0, correction=0), rtol=1e-4, atol=0)
    assert all(map(torch.equal, module.statistics(), copy.deepcopy(module).bfloat16().statistics()))
    module(x)
    again = BatchNorm(6, momentum=1.0)
    again.load_state_dict(module.state_dict())
    for one in (module, again):
        one(2 * x), one.set_step(2, 9)
    assert all(map(torch.equal, module.statistics(), again.statistics()))
    assert torch.equal(module(x), again(x))
