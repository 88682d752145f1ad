"""The layers and their configs: Megatron's builder contract, marks for gradients, parameter counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ibnorm_megatron.norms import IBNorm, LayerNorm, RMSNorm, ib_norm, norm_names, parse_norm

CONFIG = SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=True)


@pytest.mark.parametrize("norm", [IBNorm, LayerNorm, RMSNorm])
def test_is_built_with_megatrons_keywords(norm: type) -> None:
    module = norm(config=CONFIG, hidden_size=16, eps=1e-6)
    assert module.eps == 1e-6
    for parameter in module.parameters():
        assert parameter.shape == (16,)
        assert parameter.dtype == torch.bfloat16
        assert parameter.sequence_parallel
        assert not getattr(parameter, "tensor_model_parallel", False)
    x = torch.randn(3, 2, 16, dtype=torch.bfloat16)
    assert module(x).shape == x.shape


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_layer_norm_and_rms_norm_equal_their_formulas(bias: bool, center: bool) -> None:
    x = torch.randn(5, 24, dtype=torch.float64) + 1
    for norm in (LayerNorm, RMSNorm):
        module = norm(24, bias=bias, center=center).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(24))
        c = x - x.mean(-1, keepdim=True) if center else x
        expected = c * torch.rsqrt(c.square().mean(-1, keepdim=True) + 1e-5) * module.weight
        expected = expected + module.bias if bias else expected
        torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)


def test_ib_norm_layer_is_the_operator() -> None:
    module = IBNorm(8, compression="tanh", lam=2.0, scale="relative", form="literal", bias=False).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    expected = ib_norm(x, module.weight, None, compression="tanh", lam=2.0, scale="relative", form="literal")
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm, IBNorm])
def test_output_and_gradients_are_precise_over_many_rows(norm: type, dtype: torch.dtype) -> None:
    """Sums over rows in the input's type would be 5 % off here in bf16."""
    x, dy = torch.randn(2, 4096, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x * 2 + 0.5
    found = []
    for wide in (False, True):
        module = norm(128, bias=True).to(dtype)
        module = module.double() if wide else module
        leaf = (x.double() if wide else x.clone()).requires_grad_()
        y = module(leaf)
        y.backward(dy.double() if wide else dy)
        found.append([y.detach(), leaf.grad, module.weight.grad, module.bias.grad])
    for what, ours, reference in zip(("y", "dx", "dgamma", "dbeta"), *found, strict=True):
        error = float((ours.double() - reference).norm() / reference.norm())
        rounding = float((reference.to(dtype).double() - reference).norm() / reference.norm())
        assert error <= (2e-6 if dtype == torch.float32 else 1.2 * rounding), what


@pytest.mark.parametrize("name", norm_names())
def test_every_registered_norm_builds_and_counts_its_parameters(name: str) -> None:
    config = parse_norm(name)
    module = config.build(12)
    assert sum(parameter.numel() for parameter in module.parameters()) == config.num_params(12)
    assert torch.isfinite(module(torch.randn(2, 12))).all()


def test_config_reads_names_and_mappings() -> None:
    norm = parse_norm({"kind": "ibnorm_t", "lambda": 2.0, "scale": "relative"})
    assert (norm.kind, norm.compression, norm.lam, norm.scale) == ("ibnorm", "tanh", 2.0, "relative")
    assert norm.label() == "ibnorm_tanh(lambda=2.0, scale=relative)"
    assert parse_norm(norm.model_dump(by_alias=True)) == norm
    assert parse_norm("rmsnorm").label() == "rmsnorm"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("rmsnrm", "did you mean 'rmsnorm'"),
        ({"kind": "rmsnorm", "lambda": 2.0}, "rmsnorm has no option 'lambda'"),
        ({"kind": "ibnorm", "lamda": 2.0}, "did you mean 'lambda'"),
        ({"kind": "ibnorm", "lambda": 0.5, "form": "literal"}, "unbounded"),
        ({"kind": "ibnorm", "compression": "lg"}, "did you mean 'log'"),
        ({"kind": "ibnorm_identity", "strength": "learnable"}, "no effect on identity"),
        ({"kind": "ibnorm", "strength": "scheduled", "form": "literal"}, "use form unit_slope"),
        ({"kind": "ibnorm", "ramp": 0.5}, "ramp has no effect where strength is fixed"),
        (3, "a norm is a name or a mapping"),
    ],
)
def test_config_refuses(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_norm(value)
