"""Every registered compression is what it says: bounded, nondecreasing, with the derivative it states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ibnorm_megatron.norms import Compression, compression_names, get_compression, register_compression

SIZES = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=20)


@pytest.mark.parametrize("name", compression_names())
@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, lam=st.floats(1.0, 100.0))
def test_is_bounded_and_nondecreasing(name: str, sizes: list[float], lam: float) -> None:
    r = torch.tensor(sorted(sizes), dtype=torch.float64)
    compression = get_compression(name)
    f = compression.f(r, lam)
    unit = f / compression.slope_at_zero(lam)
    assert (f >= 0).all()
    for value in (f, unit):
        assert (value <= r * (1 + 1e-12)).all()
        assert (value.diff() >= -1e-12 * value[1:]).all()


@pytest.mark.parametrize("name", compression_names())
@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, lam=st.floats(0.1, 100.0))
def test_slope_is_the_derivative(name: str, sizes: list[float], lam: float) -> None:
    r = torch.tensor(sizes, dtype=torch.float64, requires_grad=True)
    compression = get_compression(name)
    (by_autograd,) = torch.autograd.grad(compression.f(r, lam).sum(), r)
    torch.testing.assert_close(compression.slope(r, lam).detach(), by_autograd, rtol=1e-9, atol=1e-12)
    at_zero = compression.slope(torch.zeros(1, dtype=torch.float64), lam)
    assert float(at_zero) == pytest.approx(compression.slope_at_zero(lam), rel=1e-12)


@pytest.mark.parametrize(("alias", "name"), [("s", "softsign"), ("l", "log"), ("t", "tanh"), ("L", "log")])
def test_aliases(alias: str, name: str) -> None:
    assert get_compression(alias) is get_compression(name)


def test_unknown_and_taken_names_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'softsign'"):
        get_compression("softsing")
    log = get_compression("log")
    for name in ("log", "t"):
        with pytest.raises(ValueError, match="exists already"):
            register_compression(Compression(name, log.f, log.slope, log.slope_at_zero, log.bounded))
