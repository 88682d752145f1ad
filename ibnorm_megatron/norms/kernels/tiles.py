"""What every kernel does with a tile of rows: masked loads, row means, the deviation that is compressed.

A tile is ``[ROWS, BLOCK]`` elements of ``ROWS`` consecutive rows, all in float32 once loaded. Row offsets are int64: a
batch of 2^31 elements is nothing unusual. ``EVEN`` says that the row's width is a multiple of BLOCK, so that no column is
masked; ``ROWS == 1`` that no row is.

Row statistics lie in one float32 tensor ``[slots, rows]``; :class:`folding.Slots` says which slot holds what. A slot that is
not there is -1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(pointer, mask, EVEN: tl.constexpr, ROWS: tl.constexpr):
    """A tile in its own type; zeros where the mask is false."""
    if EVEN and ROWS == 1:
        return tl.load(pointer)
    else:
        return tl.load(pointer, mask=mask, other=0.0)


@triton.jit
def store(pointer, value, mask, EVEN: tl.constexpr, ROWS: tl.constexpr):
    """Write a float32 tile, rounded to the pointer's type."""
    if EVEN and ROWS == 1:
        tl.store(pointer, value.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_parameter(pointer, columns, width, EVEN: tl.constexpr):
    """gamma or beta ``[1, BLOCK]`` in float32; zeros beyond the width."""
    if EVEN:
        return tl.load(pointer + columns).to(tl.float32)
    else:
        return tl.load(pointer + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def inside(value, mask, EVEN: tl.constexpr):
    """The tile with zeros beyond the width, where a deviation from the mean is not zero by itself."""
    if EVEN:
        return value
    else:
        return tl.where(mask, value, 0.0)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def row_sums(a, b, ASM: tl.constexpr):
    """Sums over the columns of two tiles, each ``[ROWS, 1]``, with one exchange between the warps.

    The interpreter walks a reduction of pairs element by element, so without ``ASM`` it is two reductions.
    """
    if ASM:
        return tl.reduce((a, b), 1, _add_pairs, keep_dims=True)
    else:
        return tl.sum(a, 1, keep_dims=True), tl.sum(b, 1, keep_dims=True)


@triton.jit
def standardize(h, mean_h, rho, MEAN_H_SLOT: tl.constexpr, FAST: tl.constexpr):
    """z = (h - mean(h)) rho. The fast form is one fused multiply-add an element."""
    if MEAN_H_SLOT < 0:
        return h * rho
    elif FAST:
        return h * rho - mean_h * rho
    else:
        return (h - mean_h) * rho


@triton.jit
def saved_deviation(
    x, stats, rows, n_rows, row_mask, inv_lam,
    CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, FAST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """From saved statistics: c, the factor k of :func:`compress`, and the relative scale's own factor (1 without it)."""
    c = x
    if CENTER:
        c -= load(stats + rows, row_mask, True, ROWS)
        if not FAST:
            c -= load(stats + n_rows + rows, row_mask, True, ROWS)
    if SCALE_SLOT >= 0:
        scale = load(stats + SCALE_SLOT * n_rows + rows, row_mask, True, ROWS)
        k = scale * inv_lam
    else:
        scale = tl.full(rows.shape, 1.0, tl.float32)
        k = scale * inv_lam
    return c, k, scale
