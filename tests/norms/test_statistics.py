"""The figures of a norm's rows against a plain calculation, closed forms for Gaussian rows, and what was planted."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from ibnorm_megatron.norms import BatchNorm, DyT, L2Norm, LayerNorm, LayerNormScaling, RMSNorm, Site, parse_norm
from ibnorm_megatron.norms.base import Norm
from ibnorm_megatron.norms.modules import IBNorm
from ibnorm_megatron.norms.statistics import Figures, NormSums

D = 48


def _figures(norm: Norm, *rows: torch.Tensor) -> Figures:
    sums = NormSums.zeros(norm.hidden_size)
    for part in rows:
        sums.add(norm, part)
    sums.add_gain(norm)
    return sums.figures()


def _rows(seed: int = 0) -> torch.Tensor:
    """Rows of different means and sizes, with a column that is larger than the rest."""
    random = np.random.default_rng(seed)
    x = random.standard_t(5, size=(11, 3, D)) * random.uniform(0.5, 3, (11, 3, 1)) + random.normal(0, 2, (11, 3, 1))
    x[..., 7] *= 30
    return torch.from_numpy(x).float()


CURVES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "log": (np.log1p, lambda v: 1 / (1 + v)),
    "tanh": (np.tanh, lambda v: 1 - np.tanh(v) ** 2),
    "softsign": (lambda v: v / (1 + v), lambda v: 1 / (1 + v) ** 2),
}


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("form", ["unit_slope", "literal"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("compression", CURVES)
def test_every_figure_is_what_numpy_says(scale: str, form: str, center: bool, compression: str) -> None:
    norm = IBNorm(D, eps=1e-3, compression=compression, lam=1.5, scale=scale, form=form, center=center)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-0.2, 1.5, D))
    x = _rows()
    found = _figures(norm, x[:4], x[4:])

    rows = x.double().numpy().reshape(-1, D)
    c = rows - rows.mean(1, keepdims=True) if center else rows
    square = (c**2).mean(1)
    u = c / np.sqrt(square + 1e-3)[:, None] if scale == "relative" else c
    phi, slope = CURVES[compression]
    g = np.sign(u) * 1.5 * phi(np.abs(u) / 1.5)
    spread = (lambda t: t.var(1).mean()) if center else (lambda t: (t**2).mean())
    channels = (c**2).mean(0)
    outlying = channels > 36 * np.median(channels)
    gamma = np.linspace(-0.2, 1.5, D)
    wanted = {
        "std": math.sqrt(rows.var(1).mean()),
        "sigma": math.sqrt(square.mean()),
        "lambda": 1.5,
        "sigma_over_lambda": math.sqrt((u**2).mean()) / 1.5,
        "beyond_lambda": (np.abs(u) > 1.5).mean(),
        "contraction": spread(g) / spread(u),
        "slope": slope(np.abs(u) / 1.5).mean(),
        "kurtosis": ((c**4).mean(1) / square**2).mean(),
        "crest": (np.abs(c).max(1) / np.sqrt(square)).mean(),
        "crest_max": (np.abs(c).max(1) / np.sqrt(square)).max(),
        "outliers": outlying.sum(),
        "outlier_energy": channels[outlying].sum() / channels.sum(),
        "largest_channel": 7,
        "gamma_mean": gamma.mean(),
        "gamma_std": gamma.std(),
        "gamma_min": -0.2,
        "gamma_max": 1.5,
        "gamma_small": (np.abs(gamma) < 0.1).mean(),
    }
    assert found.outliers == 1
    assert found.plain() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("compression", ["log", "tanh"])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 4.0])
def test_gaussian_rows_have_the_contraction_of_the_integral(compression: str, strength: float) -> None:
    """The row is the normal distribution's quantiles, so that only the ends of the integral are missing."""
    row = torch.from_numpy(stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000))
    found = _figures(IBNorm(200_000, compression=compression, lam=strength * 3.0), 3.0 * row[None])
    phi, slope = CURVES[compression]

    def mean(of: Callable[[float], float]) -> float:
        return 2 * integrate.quad(lambda z: of(z) * stats.norm.pdf(z), 0, 12)[0]

    assert found.sigma_over_lambda == pytest.approx(1 / strength, rel=1e-4)
    assert found.contraction == pytest.approx(mean(lambda z: (strength * phi(z / strength)) ** 2), rel=2e-4)
    assert found.slope == pytest.approx(mean(lambda z: slope(z / strength)), rel=1e-4)
    assert found.beyond_lambda == pytest.approx(2 * stats.norm.sf(strength), abs=1e-5)
    assert found.kurtosis == pytest.approx(3.0, rel=1e-3)
    table = {"log": {0.5: 0.23, 1: 0.39, 2: 0.56, 4: 0.72}, "tanh": {0.5: 0.16, 1: 0.39, 2: 0.69, 4: 0.89}}
    assert found.contraction == pytest.approx(table[compression][strength], abs=0.006)


def test_the_controls_compress_nothing() -> None:
    identity = _figures(parse_norm("ibnorm_identity").build(D), _rows())
    assert (identity.contraction, identity.slope) == (pytest.approx(1, rel=1e-6), 1.0)
    assert identity.lambda_ is identity.sigma_over_lambda is identity.beyond_lambda is None
    linear = _figures(parse_norm({"kind": "ibnorm_linear", "lambda": 2.0}).build(D), _rows())
    assert (linear.contraction, linear.slope, linear.lambda_) == (pytest.approx(1, rel=1e-6), pytest.approx(1), 2.0)


def test_a_norm_without_compression_has_no_figures_of_one() -> None:
    for norm in (LayerNorm(D), RMSNorm(D), DyT(D), parse_norm("normalnorm").build(D)):
        found = _figures(norm, _rows())
        none = (found.lambda_, found.sigma_over_lambda, found.beyond_lambda, found.contraction, found.slope)
        assert none == (None,) * 5
        assert (found.sigma == pytest.approx(found.std)) == norm.center
    assert {type(norm).__name__: norm.center for norm in (LayerNorm(D), RMSNorm(D), L2Norm(D), BatchNorm(D))} == {
        "LayerNorm": True, "RMSNorm": False, "L2Norm": False, "BatchNorm": False
    }  # fmt: skip


def test_gains_are_those_that_rows_are_multiplied_by() -> None:
    for norm, gain in (
        (RMSNorm(D, unit_offset=True), 1.0),
        (L2Norm(D), 1.0),
        (LayerNormScaling(D, site=Site("attn_in", 3)), 0.5),
        (LayerNorm(D), 1.0),
    ):
        found = _figures(norm, _rows())
        assert (found.gamma_mean, found.gamma_min, found.gamma_max) == pytest.approx((gain,) * 3)
        assert (found.gamma_std, found.gamma_small) == (pytest.approx(0, abs=1e-7), 0.0)


def test_a_learned_lambda_is_the_one_it_has_learned() -> None:
    norm = IBNorm(D, lam=2.0, strength="learnable")
    with torch.no_grad():
        norm.log_lambda.fill_(math.log(0.5))
    assert _figures(norm, _rows()).lambda_ == pytest.approx(0.5, rel=1e-6)
    norm = IBNorm(D, lam=2.0, strength="scheduled", ramp=0.5)
    norm.set_step(0, 8)
    assert _figures(norm, _rows()).lambda_ == 8.0


def test_rows_of_zeros_have_no_shape_and_nothing_has_no_figures() -> None:
    x = _rows()
    alone, among = _figures(IBNorm(D), x), _figures(IBNorm(D), x, torch.zeros(33, D))
    assert (among.kurtosis, among.crest, among.crest_max) == pytest.approx((alone.kurtosis, alone.crest, alone.crest_max))
    assert among.sigma == pytest.approx(alone.sigma / math.sqrt(2))
    empty = _figures(IBNorm(D), torch.zeros(2, D))
    assert empty.sigma == 0.0
    assert all(math.isnan(value) for value in (empty.kurtosis, empty.crest, empty.crest_max, empty.outlier_energy))
    assert empty.contraction is None


def test_numbers_that_are_not_finite_are_not_hidden() -> None:
    x = _rows()
    x[3, 1, 5] = math.inf
    found = _figures(IBNorm(D), x)
    assert not any(math.isfinite(value) for value in (found.std, found.sigma, found.kurtosis))


def test_blocks_of_rows_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _figures(IBNorm(D, lam=1.0), _rows())
    monkeypatch.setattr("ibnorm_megatron.norms.statistics._CPU_BLOCK", 2 * D)
    assert _figures(IBNorm(D, lam=1.0), _rows()).plain() == pytest.approx(whole.plain(), rel=1e-12)
