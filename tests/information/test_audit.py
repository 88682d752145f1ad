"""The bijection audit and the IB value's curve."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.information_cases import classes, gaussian
from ibnorm_megatron.information.audit import audit, audit_bottleneck, mapped
from ibnorm_megatron.information.ksg import Ksg
from ibnorm_megatron.information.measure import Measure
from ibnorm_megatron.information.probe import Probe
from ibnorm_megatron.information.renyi import Renyi
from ibnorm_megatron.information.tradeoff import BETAS, information_bottleneck
from ibnorm_megatron.norms import ib_norm

Inverse = Callable[[Tensor], Tensor]


def test_ibnorm_of_layernorms_rows_can_be_undone() -> None:
    rows = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)).double()
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)
    inverses: dict[str, tuple[Inverse, float]] = {
        "log": (lambda g: g.sign() * torch.expm1(g.abs()), math.inf),
        "tanh": (torch.atanh, 1.0),
        "softsign": (lambda g: g / (1 - g.abs()), 1.0),
    }
    for compression, (inverse, bound) in inverses.items():
        z = ib_norm(rows, compression=compression, lam=1.0, eps=1e-14)
        assert float((z - rows).abs().max()) > 0.2
        assert torch.allclose(_undone(z, inverse, bound), rows, atol=1e-5)


def _undone(z: torch.Tensor, inverse: Inverse, bound: float) -> torch.Tensor:
    """The rows of mean 0 and variance 1 that lie at g^-1(s z + m), by bisection of s, and of m for each s; |g| < bound."""
    top, bottom = z.max(1, keepdim=True).values, z.min(1, keepdim=True).values

    def at(s: torch.Tensor) -> torch.Tensor:
        # At these ends no column, or each, is below 0; and no column leaves the range of g.
        low = torch.maximum(-s * top, -(bound - 1e-12) - s * bottom)
        high = torch.minimum(-s * bottom, bound - 1e-12 - s * top)
        for _ in range(60):
            m = (low + high) / 2
            below = inverse(s * z + m).mean(1, keepdim=True) < 0
            low, high = torch.where(below, m, low), torch.where(below, high, m)
        return inverse(s * z + (low + high) / 2)

    least = torch.zeros_like(top)
    most = torch.minimum(torch.full_like(top, 5.0), 2 * (bound - 1e-9) / (top - bottom))
    for _ in range(60):
        s = (least + most) / 2
        narrow = at(s).var(1, correction=0, keepdim=True) < 1
        least, most = torch.where(narrow, s, least), torch.where(narrow, most, s)
    return at((least + most) / 2)


def test_an_estimator_of_information_does_not_change_and_renyi_does() -> None:
    case = gaussian(1500, 2, 1.0, 2)
    cubed = audit(Ksg(), case.data, lambda rows: rows + 0.3 * rows**3, "cube")[0]
    assert abs(cubed.change) < 0.06 and cubed.bijection == "cube"
    case = gaussian(300, 4, 1.0, 4)
    moved = audit(
        Renyi(multiples=(1.0,), permutations=5), case.data, lambda rows: rows.sign() * rows.abs() ** 0.2, "root", anywhere=True
    )
    assert [one.before.details["alpha"] for one in moved] == [1.01, 2.0]
    assert all(abs(one.change) > 0.05 for one in moved)


def test_the_identity_changes_nothing() -> None:
    case = classes(1000, 4, 2, 0.6)
    (one,) = audit(Probe(), case.data, lambda rows: rows, "identity")
    assert one.change == 0 and one.before == one.after
    assert torch.as_tensor(mapped(case.data, lambda rows: 2 * rows).t).equal(2 * torch.as_tensor(case.data.t))


def _said(value: float, low: float = math.nan, high: float = math.nan, reason: str = "") -> Measure:
    return Measure("I", "one", value, 100, 4, "a decoder", low, high, reason)


def test_the_curve_adds_half_widths() -> None:
    points = information_bottleneck(_said(1.0, 0.9, 1.2), _said(4.0, 3.5, 5.0), [0.0, 0.1, 0.5])
    assert [point.beta for point in points] == [0.0, 0.1, 0.5]
    for point in points:
        assert math.isclose(point.value, 1 - 4 * point.beta)
        assert math.isclose(point.low, point.value - 0.1 - point.beta * 1.0)
        assert math.isclose(point.high, point.value + 0.2 + point.beta * 0.5)
        assert point.reason == ""
    assert len(BETAS) > 4 and BETAS[0] == 0


def test_the_curve_covers_whatever_the_errors_correlation() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4000, generator=generator)
    for correlation in (-1.0, 0.0, 1.0):
        of_x = correlation * first + math.sqrt(1 - correlation**2) * second
        inside = 0
        for a, b in zip((0.1 * first).tolist(), (0.3 * of_x).tolist(), strict=True):
            point = information_bottleneck(_said(a, a - 0.196, a + 0.196), _said(b, b - 0.588, b + 0.588), [0.5])[0]
            inside += point.low <= 0 <= point.high
        assert inside / 4000 > 0.94


def test_what_is_missing_is_said_and_not_made_up() -> None:
    (point,) = information_bottleneck(_said(1.0, 0.9, 1.1), _said(2.0, reason="no interval: compare"), [0.5])
    assert point.value == 0 and math.isnan(point.low) and "no interval" in point.reason
    (point,) = information_bottleneck(_said(math.nan, reason="too wide"), _said(2.0, 1.0, 3.0), [0.5])
    assert math.isnan(point.value) and "too wide" in point.reason
    with pytest.raises(ValueError, match="below 0"):
        information_bottleneck(_said(1.0), _said(1.0), [-0.1])
    with pytest.raises(ValueError, match="units"):
        information_bottleneck(_said(1.0), replace(_said(1.0), unit="bits"))


def test_the_audit_of_an_ib_value() -> None:
    of_y = audit(Probe(), classes(1000, 4, 2, 0.6).data, lambda rows: rows, "identity")[0]
    before, after = audit_bottleneck(of_y, of_y, beta=0.25)
    assert before == after and math.isclose(before, 0.75 * of_y.before.value)
