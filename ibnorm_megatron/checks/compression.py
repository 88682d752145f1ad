"""Checks of a compression: bounded, monotone, and with the derivative that it says it has."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..norms.compression import Compression
from .finding import Finding

_STRENGTHS = (1.0, 2.0, 4.0, 10.0)


def check_compression(compression: Compression) -> Iterator[Finding]:
    """What :class:`Compression` promises, in float64 on r from 1e-8 to 1e6 and 0, for lambda from 1 to 10."""
    r = torch.cat([torch.zeros(1), torch.logspace(-8, 6, 4001)]).double()
    curves = {lam: compression.f(r, lam) for lam in _STRENGTHS}
    slopes = {lam: compression.slope(r, lam).broadcast_to(r.shape) for lam in _STRENGTHS}
    at_zero = max(float(f[0].abs()) for f in curves.values())
    yield Finding("f(0) = 0", at_zero == 0, f"f(0) = {at_zero:.1e}")
    falls = max(float((f[:-1] - f[1:]).max() / f[1:].abs().max()) for f in curves.values())
    yield Finding("f never falls", falls <= 1e-15, f"largest fall {max(falls, 0):.1e} of f's range")
    yield _bounded("0 <= f(r) <= r, literal form, lambda >= 1", r, curves)
    unit = {lam: f / compression.slope_at_zero(lam) for lam, f in curves.items()}
    yield _bounded("0 <= f(r) / f'(0) <= r, unit-slope form", r, unit)
    wrong = max(abs(float(slopes[lam][0] / compression.slope_at_zero(lam) - 1)) for lam in _STRENGTHS)
    yield Finding("slope(0) = slope_at_zero", wrong <= 1e-12, f"off by {wrong:.1e}")
    yield _fast_form(compression, r, curves)
    yield _derivative(compression)
    narrow = torch.tensor([0.0, 1e-30, 1e4, 1e30], dtype=torch.float32)
    finite = all(
        bool(torch.isfinite(torch.cat([compression.f(narrow, lam), compression.slope(narrow, lam).broadcast_to(4)])).all())
        for lam in _STRENGTHS
    )
    yield Finding("finite in float32 up to r = 1e30", finite, "f and slope")


def _fast_form(compression: Compression, r: Tensor, curves: dict[float, Tensor]) -> Finding:
    """What runs is ``odd``, where a compression brings one: it has to be f."""
    off = 0.0
    for lam, f in curves.items():
        odd, factor = compression.fixed_odd(lam)
        off = max(off, float(((odd.value(r * factor)[0] - f).abs() / f.abs().clamp_min(1e-8)).max()))
    return Finding("odd is f", off <= 1e-7, f"off by {off:.1e}")


def _bounded(what: str, r: Tensor, curves: dict[float, Tensor]) -> Finding:
    # Rounding 1 + r / lambda costs lambda * 1e-16; a compression that does so is bounded all the same.
    over = max(float((f - r - 1e-15 * lam * (1 + r)).max()) for lam, f in curves.items())
    below = min(float((f + 1e-15 * lam).min()) for lam, f in curves.items())
    close = max(float((f / r)[1:].max()) for f in curves.values())
    return Finding(what, over <= 0 <= below, f"f / r is {close:.9g} at most")


def _derivative(compression: Compression) -> Finding:
    """The slope against central differences: relative where it matters, absolute where it has nearly vanished."""
    r = torch.logspace(-2, 3, 301, dtype=torch.float64)
    worst = 0.0
    for lam in _STRENGTHS:
        step = 1e-4 * r
        difference = (compression.f(r + step, lam) - compression.f(r - step, lam)) / (2 * step)
        slope = compression.slope(r, lam).broadcast_to(r.shape)
        worst = max(worst, float((slope - difference).abs().max() / slope.abs().max()))
    return Finding("slope is f's derivative", worst <= 1e-7, f"off central differences by {worst:.1e}")
