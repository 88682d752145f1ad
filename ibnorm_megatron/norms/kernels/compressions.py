"""The compressions and their slopes as Triton functions, one source for every kernel; :mod:`folding` has the table.

``FAST`` picks the forms for bf16 and fp16 input, and ``ASM`` has them evaluated by the special-function unit
(lg2.approx, ex2.approx, rcp.approx, sqrt.approx, rsqrt.approx): one instruction each, where Triton's ``tl.log`` alone
expands to some twenty. The interpreter knows no inline assembly, so with ``ASM`` false the same fast forms go through
``tl.log2`` and its like. fp32 input takes the exact forms, which the interpreter runs as they are.

A logarithm of 1 + v, or 1 - exp(-2 v), has an absolute error of about 2^-22 however small v is. Where v is small the fast
forms therefore switch to two terms of the power series, and the exact ones to more: a large lambda then tends to
LayerNorm, as it should, and not to noise.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import folding

IDENTITY = tl.constexpr(folding.IDENTITY)
LOG = tl.constexpr(folding.LOG)
TANH = tl.constexpr(folding.TANH)
SOFTSIGN = tl.constexpr(folding.SOFTSIGN)

_LOG2E = tl.constexpr(1.4426950408889634)
_SIGN_BIT = tl.constexpr(-0x80000000)


@triton.jit
def _lg2(x, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def _ex2(x, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def _rcp(x, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def _sqrt(x, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise("sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.sqrt(x)


@triton.jit
def _rsqrt(x, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise("rsqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        return tl.rsqrt(x)


@triton.jit
def _copysign(size, c):
    """``size >= 0`` with the sign of c: one logical instruction, where a comparison and a selection are two."""
    bits = size.to(tl.int32, bitcast=True) | (c.to(tl.int32, bitcast=True) & _SIGN_BIT)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _log1p(v):
    """ln(1 + v) for v >= 0 to a few units in the last place, from a logarithm that is good away from 1.

    The rounding of w = 1 + v is undone by the factor v / (w - 1): Higham, "Accuracy and Stability of Numerical
    Algorithms", section 1.14.1.
    """
    w = 1.0 + v
    return tl.where(w == 1.0, v, tl.where(w == v, tl.log(w), tl.log(w) * (v / (w - 1.0))))


@triton.jit
def compress(c, k, KIND: tl.constexpr, SCALED: tl.constexpr, SLOPE: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr):
    """h(c k) and its slope s, both of c's shape; k is 1 / lambda, times the row's factor for the relative scale.

    ``SCALED`` false says that k is 1 (the identity in the absolute scale), ``SLOPE`` false that nobody uses the slope.
    """
    if KIND == IDENTITY:
        h = c * k if SCALED else c
        slope = tl.full(c.shape, 1.0, tl.float32)
    elif KIND == LOG:
        v = tl.abs(c) * k
        slope = _rcp(1.0 + v, ASM)
        if FAST:
            series = v * (_LOG2E - 0.5 * _LOG2E * v)
            size = tl.where(v < 0.0078125, series, _lg2(1.0 + v, ASM))
        else:
            size = _log1p(v)
        h = _copysign(size, c)
    elif KIND == TANH:
        if FAST:
            # tanh(v) / 2 = 1 / (1 + exp(-2 v)) - 1/2 for either sign of v; the slope wants exp(-2 |v|), which is at most 1.
            r = tl.abs(c) if SLOPE else c
            e = _ex2(r * (-2.0 * _LOG2E * k), ASM)
            q = _rcp(1.0 + e, ASM)
            square = c * c
            series = r * (0.5 * k - square * (0.16666667 * k * k * k))
            h = tl.where(square < 0.00390625 / (k * k), series, q - 0.5)
            h = _copysign(h, c) if SLOPE else h
        else:
            v = tl.abs(c) * k
            e = tl.exp(-2.0 * v)
            q = 1.0 / (1.0 + e)
            v2 = v * v
            # tanh(v) = v - v^3/3 + 2 v^5/15 - 17 v^7/315 + 62 v^9/2835 - ...; the next term is below 1e-8 of it.
            series = v * (1.0 + v2 * (-1.0 / 3 + v2 * (2.0 / 15 + v2 * (-17.0 / 315 + v2 * (62.0 / 2835)))))
            h = _copysign(tl.where(v < 0.25, series, (1.0 - e) * q), c)
        slope = e * q * q
    elif KIND == SOFTSIGN:
        q = _rcp(1.0 + tl.abs(c) * k, ASM)
        h = c * k * q
        slope = q * q
    else:
        v = tl.abs(c) * k
        square = v * v + 1.0
        slope = _rsqrt(square, ASM)
        root = tl.where(v < 1e9, _sqrt(square, ASM), v)  # above, v^2 may overflow, and the 1 is lost anyway
        if FAST:
            series = v * (_LOG2E - 0.16666667 * _LOG2E * v * v)
            size = tl.where(v < 0.0625, series, _lg2(v + root, ASM))
        else:
            # ln(v + sqrt(1 + v^2)) = log1p(v + v^2 / (1 + sqrt(1 + v^2))), which does not cancel at small v.
            size = _log1p(v + v * (v / (1.0 + root)))
        h = _copysign(size, c)
    return h, slope
