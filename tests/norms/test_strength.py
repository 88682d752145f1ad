"""What becomes of lambda: learned or scheduled, and the same whether compiled or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ibnorm_megatron.norms import Compression, compression_names, get_compression, ib_norm, parse_norm

OF_RATIO = [name for name in compression_names() if get_compression(name).of_ratio]
ROOT = Compression(  # one without the fast form
    "square-root",
    f=lambda r, lam: (1 + 2 * r / lam).sqrt() - 1,
    slope=lambda r, lam: (1 + 2 * r / lam).rsqrt() / lam,
    slope_at_zero=lambda lam: 1 / lam,
    bounded="concave with slope 1 / lambda at 0",
)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("form", ["unit_slope", "literal"])
@pytest.mark.parametrize("compression", [*OF_RATIO, ROOT], ids=lambda c: c if isinstance(c, str) else c.name)
def test_gradient_of_lambda(compression: str | Compression, form: str, scale: str, center: bool) -> None:
    options = {"compression": compression, "form": form, "scale": scale, "center": center}
    leaves = [t.requires_grad_() for t in (_draw(3, 7) + 0.3, _draw(7, seed=1) + 1, _draw(7, seed=2))]
    lam = torch.tensor([1.7], dtype=torch.float64, requires_grad=True)
    norm = lambda *a: ib_norm(*a[:3], lam=a[3], eps=1e-2, **options)  # noqa: E731
    assert torch.autograd.gradcheck(norm, [*leaves, lam], atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(norm(*leaves, lam), norm(*leaves, 1.7), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OF_RATIO)
def test_gradient_of_lambda_over_many_rows_in_float32(name: str) -> None:
    """More rows than stay in cache together, so that blocks are summed."""
    x, weight, dy = _draw(2048, 96) * 2, _draw(96, seed=1) + 1, _draw(2048, 96, seed=2)
    found = []
    for dtype in (torch.float64, torch.float32):
        lam = torch.tensor([2.0], dtype=dtype, requires_grad=True)
        ib_norm(x.to(dtype), weight.to(dtype), compression=name, lam=lam).backward(dy.to(dtype))
        found.append(float(lam.grad))
    # The addends are of order one, 196,608 of them, and in the mean of either sign.
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-3)


def test_a_tensor_for_lambda_has_one_element_and_a_compression_that_uses_it() -> None:
    for options in ({"lam": torch.ones(2)}, {"lam": torch.ones(1), "compression": "identity"}):
        with pytest.raises(ValueError, match="lam is a tensor of shape"):
            ib_norm(torch.randn(2, 4), **options)


@pytest.mark.parametrize("name", compression_names())
def test_the_fast_form_is_the_same_function(name: str) -> None:
    v = torch.cat([torch.logspace(-8, 3, 200, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    v = torch.cat([v, -v])
    compression = get_compression(name)
    kept_v = v.clone()
    value, kept = compression.odd.value(v)
    torch.testing.assert_close(value, compression.f(v.abs(), 1.0).copysign(v), rtol=1e-14, atol=0)
    slope = compression.odd.chain(torch.ones_like(v), v, kept)
    torch.testing.assert_close(slope, compression.slope(v.abs(), 1.0).contiguous(), rtol=1e-12, atol=0)
    assert torch.equal(v, kept_v)


def test_learned_lambda_starts_where_told_and_moves() -> None:
    config = parse_norm({"kind": "ibnorm_tanh", "lambda": 2.0, "strength": "learnable"})
    assert config.label() == "ibnorm_tanh(lambda=2.0, strength=learnable)"
    module = config.build(16)
    assert sum(parameter.numel() for parameter in module.parameters()) == config.num_params(16) == 33
    assert module.current_lambda().item() == pytest.approx(2.0)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    target = ib_norm(x, compression="tanh", lam=0.5)
    optimizer = torch.optim.Adam([module.log_lambda], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        optimizer.step()
    assert module.current_lambda().item() == pytest.approx(0.5, rel=0.05)


def test_scheduled_lambda_is_a_function_of_the_step() -> None:
    config = parse_norm({"kind": "ibnorm", "lambda": 2.0, "strength": "scheduled", "ramp": 0.25})
    assert config.label() == "ibnorm_log(lambda=2.0, strength=scheduled, ramp=0.25)"
    module = config.build(8)
    assert module.current_lambda() == 2.0
    seen = []
    for done in range(40):
        module.set_step(done, 40)
        seen.append(module.current_lambda())
    assert seen[:10] == pytest.approx([2.0 * 10 / n for n in range(1, 11)])
    assert set(seen[9:]) == {2.0}
    module.set_step(0, 10_000_000)  # the first of very many steps: as good as LayerNorm
    x = torch.randn(4, 8)
    torch.testing.assert_close(module(x), torch.nn.functional.layer_norm(x, (8,)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [1e-30, 1e-12, 1e6, 1e12, 1e25])
@pytest.mark.parametrize("name", OF_RATIO)
def test_no_lambda_is_too_large_or_small(name: str, lam: float) -> None:
    x = _draw(4, 33).float().requires_grad_()
    y = ib_norm(x, compression=name, lam=lam)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    if lam >= 1e6 or name == "linear":
        torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (33,)), rtol=1e-4, atol=1e-4)
