"""The operator: golden values, gradients, exact zeros, degenerate rows, low precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ibnorm_megatron.norms import Compression, compression_names, get_compression, ib_norm

GOLDEN = json.loads((Path(__file__).parent / "golden_ibnorm.json").read_text())["cases"]
BUILT_IN = ["identity", "linear", "log", "tanh", "softsign", "asinh"]


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor, name: str, lam: float, eps: float, relative: bool, center: bool
) -> Tensor:
    """The definition, literal form, from smooth formulas that share no code with the package; autograd differentiates it."""
    odd: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda c: c,
        "linear": lambda c: c / lam,
        "log": lambda c: torch.where(c >= 0, torch.log1p(c.clamp_min(0) / lam), -torch.log1p(-c.clamp_max(0) / lam)),
        "tanh": lambda c: torch.tanh(c / lam),
        "softsign": lambda c: torch.where(c >= 0, c / (lam + c.clamp_min(0)), c / (lam - c.clamp_max(0))),
        "asinh": lambda c: torch.asinh(c / lam),
    }
    c = x - x.mean(-1, keepdim=True) if center else x
    if relative:
        c = c / torch.sqrt(c.square().mean(-1, keepdim=True) + eps)
    g = odd[name](c)
    m = g.mean(-1, keepdim=True) if center else 0.0
    variance = (g - m).square().mean(-1, keepdim=True)
    return (g - m) / torch.sqrt(variance + eps) * weight + bias


def _leaves(
    rows: int, width: int, *, mean: float = 0.0, std: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(rows, width) * std + mean, draw(width) + 1, draw(width), draw(rows, width)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['kind']}-{case['lam']}-{len(case['gamma'])}")
def test_reproduces_golden_values(case: dict) -> None:
    value = {name: torch.tensor(case[name], dtype=torch.float64) for name in case if isinstance(case[name], list)}
    x, gamma, beta = (value[name].requires_grad_() for name in ("x", "gamma", "beta"))
    y = ib_norm(x, gamma, beta, compression=case["kind"], lam=case["lam"], eps=case["eps"], form="literal")
    y.backward(value["dy"])
    for name, ours in (("y", y), ("dx", x.grad), ("dgamma", gamma.grad), ("dbeta", beta.grad)):
        torch.testing.assert_close(ours, value[name], rtol=0, atol=1e-12, msg=name)


def test_golden_values_cover_every_built_in_compression() -> None:
    assert {case["kind"] for case in GOLDEN} == set(BUILT_IN)
    assert set(BUILT_IN) <= set(compression_names())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("lam", [1.0, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("name", BUILT_IN)
def test_gradcheck(name: str, lam: float, scale: str, center: bool) -> None:
    x, weight, bias, _ = _leaves(3, 7, mean=0.3)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    norm = lambda *a: ib_norm(*a, compression=name, lam=lam, scale=scale, center=center, eps=1e-2)  # noqa: E731
    assert torch.autograd.gradcheck(norm, leaves, atol=1e-7, rtol=1e-6)
    # In an all-zero row every deviation is exactly zero. log and softsign have a jump of curvature there, which a
    # difference quotient of step 1e-6 feels at that order; the slope 0 that is the mistake to catch is off by 1.
    zeros = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True)
    flat = lambda *a: ib_norm(*a, compression=name, lam=lam, scale=scale, center=center, eps=0.5)  # noqa: E731
    assert torch.autograd.gradcheck(flat, [zeros, *leaves[1:]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", BUILT_IN)
def test_equals_the_definition(name: str, relative: bool, center: bool) -> None:
    x, weight, bias, dy = _leaves(5, 33, mean=2.0, std=3.0)
    ours = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
    theirs = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
    scale = "relative" if relative else "absolute"
    y = ib_norm(*ours, compression=name, lam=2.0, scale=scale, form="literal", center=center)
    expected = _reference(*theirs, name, 2.0, 1e-5, relative, center)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    y.backward(dy)
    expected.backward(dy)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["log", "tanh", "softsign"])
def test_gradient_at_exact_zero_is_the_slope_not_zero(name: str) -> None:
    x = torch.tensor([[-2.0, -1.0, 0.0, 1.0, 2.0, 0.0, -3.0, 3.0]], dtype=torch.float64)  # mean 0: two deviations are exactly 0
    dy = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    leaf = x.clone().requires_grad_()
    ib_norm(leaf, compression=name, lam=1.0).backward(dy)
    step = 1e-6
    for i in range(8):
        shift = torch.zeros_like(x)
        shift[0, i] = step
        plus, minus = (float((ib_norm(x + s * shift, compression=name, lam=1.0) * dy).sum()) for s in (1, -1))
        assert float(leaf.grad[0, i]) == pytest.approx(
            (plus - minus) / (2 * step), abs=5e-6
        )  # the quotient itself, where the curvature jumps


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("lam", [1.0, 4.0, 10.0])
def test_unit_slope_is_literal_with_another_eps(name: str, lam: float) -> None:
    x, weight, bias, _ = _leaves(4, 16, std=0.02)
    slope = get_compression(name).slope_at_zero(lam)
    unit = ib_norm(x, weight, bias, compression=name, lam=lam, eps=1e-5)
    literal = ib_norm(x, weight, bias, compression=name, lam=lam, eps=1e-5 * slope**2, form="literal")
    torch.testing.assert_close(unit, literal, rtol=1e-12, atol=1e-12)


def test_identity_is_layer_norm_and_linear_is_layer_norm_with_scaled_eps() -> None:
    x, weight, bias, _ = _leaves(6, 24, std=0.02)
    layer_norm = lambda eps: torch.nn.functional.layer_norm(x, (24,), weight, bias, eps)  # noqa: E731
    torch.testing.assert_close(ib_norm(x, weight, bias, compression="identity"), layer_norm(1e-5), rtol=1e-12, atol=1e-12)
    linear = ib_norm(x, weight, bias, compression="linear", lam=10.0, form="literal")
    torch.testing.assert_close(linear, layer_norm(1e-5 * 100), rtol=1e-12, atol=1e-12)


def test_tends_to_layer_norm_as_lambda_grows() -> None:
    x, weight, bias, _ = _leaves(6, 24)
    expected = torch.nn.functional.layer_norm(x, (24,), weight, bias)
    distance = [float((ib_norm(x, weight, bias, lam=lam) - expected).norm()) for lam in (1e1, 1e3, 1e5)]
    assert distance[0] > 50 * distance[1] > 2500 * distance[2]


def test_scaling_the_input_is_scaling_lambda() -> None:
    x, _, _, _ = _leaves(4, 16)
    torch.testing.assert_close(ib_norm(8 * x, lam=4.0, eps=1e-5), ib_norm(x, lam=0.5, eps=1e-5 / 64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "contraction", "kurtosis"),
    [("log", [0.23, 0.39, 0.56, 0.72], [1.8, 2.0, 2.3, 2.5]), ("tanh", [0.16, 0.39, 0.69, 0.89], [1.3, 1.6, 2.1, 2.6])],
)
def test_variance_contraction_of_gaussian_input(name: str, contraction: list[float], kurtosis: list[float]) -> None:
    """One-dimensional quadrature of Var(g) / Var(linear g) and of g's kurtosis at lambda = 0.5, 1, 2, 4 sigma."""
    x = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    density /= density.sum()
    for lam, wanted_contraction, wanted_kurtosis in zip([0.5, 1.0, 2.0, 4.0], contraction, kurtosis, strict=True):
        g = torch.copysign(get_compression(name).f(x.abs(), lam), x)
        variance = float((density * g.square()).sum())
        assert variance * lam**2 == pytest.approx(wanted_contraction, abs=0.006)
        assert float((density * g**4).sum()) / variance**2 == pytest.approx(wanted_kurtosis, abs=0.06)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("width", [1, 7, 33, 384, 1000])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_constant_rows_give_beta_and_finite_gradients(name: str, width: int, scale: str) -> None:
    _, weight, bias, dy = (t.float() for t in _leaves(4, width))
    x = torch.tensor([0.0, 0.1, -3.7, 1e6]).unsqueeze(1).expand(4, width).contiguous().requires_grad_()
    y = ib_norm(x, weight, bias, compression=name, scale=scale)
    torch.testing.assert_close(y, bias.expand(4, width), rtol=0, atol=1e-3)
    y.backward(dy)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("center", [True, False])
def test_a_bad_row_poisons_only_itself(bad: float, center: bool) -> None:
    x, weight, bias, dy = (t.float() for t in _leaves(4, 65))
    clean = x.clone().requires_grad_()
    x[1, 17] = bad
    x.requires_grad_()
    for leaf in (clean, x):
        ib_norm(leaf, weight, bias, center=center).backward(dy)
    others = [0, 2, 3]
    torch.testing.assert_close(
        ib_norm(x, weight, bias, center=center)[others], ib_norm(clean, weight, bias, center=center)[others], rtol=0, atol=0
    )
    torch.testing.assert_close(x.grad[others], clean.grad[others], rtol=0, atol=0)


def _relative_error(ours: Tensor, reference: Tensor) -> float:
    return float(((ours.double() - reference).norm() / reference.norm()).detach())


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_against_float64_on_the_rounded_input(dtype: torch.dtype, name: str, scale: str) -> None:
    x, weight, bias, dy = (t.to(dtype) for t in _leaves(64, 384, mean=0.5, std=2.0))
    wide = [t.double().requires_grad_() for t in (x, weight, bias)]
    narrow = [t.clone().requires_grad_() for t in (x, weight, bias)]
    expected = ib_norm(*wide, compression=name, scale=scale)
    y = ib_norm(*narrow, compression=name, scale=scale)
    expected.backward(dy.double())
    y.backward(dy)
    assert y.dtype == dtype
    pairs = [(y, expected), *((a.grad, b.grad) for a, b in zip(narrow, wide, strict=True))]
    for ours, reference in pairs:
        rounding = _relative_error(reference.to(dtype), reference)
        assert _relative_error(ours, reference) <= (2e-6 if dtype == torch.float32 else 1.2 * rounding)


def test_a_large_mean_costs_no_precision() -> None:
    x = (_leaves(64, 1024, mean=1e4)[0]).float()
    assert _relative_error(ib_norm(x, lam=1.0), ib_norm(x.double(), lam=1.0)) <= 2e-6


@pytest.mark.parametrize(
    ("scale", "center", "expected"), [("absolute", True, 16), ("relative", True, 20), ("absolute", False, 4)]
)
def test_saves_what_layer_norm_saves_and_a_few_bytes_a_row(scale: str, center: bool, expected: int) -> None:
    x, weight, bias = (t.float().requires_grad_() for t in _leaves(32, 256)[:3])
    found = []
    layer_norm = lambda: torch.nn.functional.layer_norm(x, (256,), weight, bias)  # noqa: E731
    for norm in (lambda: ib_norm(x, weight, bias, scale=scale, center=center), layer_norm):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            norm()
        known = {t.data_ptr() for t in (x, weight, bias)}
        found.append(sum(t.numel() * t.element_size() for t in saved if t.data_ptr() not in known))
    assert found == [expected * 32, 8 * 32]


def test_shapes_and_missing_affine() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    y = ib_norm(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 3, 5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert ib_norm(torch.randn(0, 8)).shape == (0, 8)
    strided = torch.randn(8, 6).t()
    torch.testing.assert_close(ib_norm(strided), ib_norm(strided.contiguous()), rtol=0, atol=0)


def test_takes_a_compression_that_is_not_registered() -> None:
    root = Compression(
        "square-root",
        f=lambda r, lam: (1 + 2 * r / lam).sqrt() - 1,
        slope=lambda r, lam: (1 + 2 * r / lam).rsqrt() / lam,
        slope_at_zero=lambda lam: 1 / lam,
        bounded="concave with slope 1 / lambda at 0",
    )
    x = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: ib_norm(t, compression=root, lam=2.0, eps=1e-2), [x])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"compression": "lgo"}, "did you mean 'log'"),
        ({"lam": 0.0}, "lam is 0.0"),
        ({"eps": -1.0}, "eps is -1.0"),
        ({"scale": "rel"}, "scale is 'rel'"),
        ({"form": "unit"}, "form is 'unit'"),
        ({"weight": torch.ones(3)}, r"weight has shape \(3,\)"),
    ],
)
def test_refuses_what_makes_no_sense(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ib_norm(torch.randn(2, 4), **arguments)
