"""The forward kernels: one for rows that fit a program's registers, and a column-tiled one for wider rows.

Per element a row costs one read of x and one write of y, and with the fused residual add one more read and write. The kernel
that keeps the row in registers reads x once; the tiled one reads it once per reduction, out of the cache after the first.

A row goes through two exchanges between the warps with the fast forms (the mean; then sum and sum of squares of h) and
four with the exact ones (mean, its refinement, mean of h, variance), and one more for the relative scale. The sum of
squares is safe for h, since E[h^2] / var(h) <= d^2 / (4 (d - 1)) for a concave compression of centred deviations; it would
not be for raw x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .compressions import compress
from .tiles import inside, load, load_parameter, row_sums, standardize, store


@triton.jit
def _input(
    x, residual, stream, rows, columns, x_stride, residual_stride, mask,
    RESIDUAL: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The tile to be normed in float32: x, or x + residual as ``stream`` will hold it, since backward sees only that."""
    value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
    if RESIDUAL:
        value += load(residual + rows * residual_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        value = value.to(stream.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def _write(
    z, weight, bias, y, rows, columns, width, mask,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """y = gamma z + beta."""
    if WEIGHT:
        z = z * load_parameter(weight, columns, width, EVEN)
    if BIAS:
        z = z + load_parameter(bias, columns, width, EVEN)
    store(y + rows * width + columns, z, mask, EVEN, ROWS)


@triton.jit
def forward_rows(
    x, residual, weight, bias, y, stream, stats,
    x_stride, residual_stride, n_rows, width, inv_width, inv_lam, eps, eps_h,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of x ``[n_rows, width]``, width <= BLOCK, to y, their statistics ``[slots, n_rows]`` and the stream.

    x and residual have row strides of their own; y and stream are contiguous.
    """
    inv_lam, inv_width = tl.cast(inv_lam, tl.float32), tl.cast(inv_width, tl.float32)
    eps, eps_h = tl.cast(eps, tl.float32), tl.cast(eps_h, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    row_mask = rows < n_rows
    mask = row_mask & (columns < width)

    c = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, ROWS)
    if RESIDUAL:
        store(stream + rows * width + columns, c, mask, EVEN, ROWS)
    if CENTER:
        mean = tl.sum(c, 1, keep_dims=True) * inv_width
        store(stats + rows, mean, row_mask, True, ROWS)
        c = inside(c - mean, mask, EVEN)
        if not FAST:
            low = tl.sum(c, 1, keep_dims=True) * inv_width
            store(stats + n_rows + rows, low, row_mask, True, ROWS)
            c = inside(c - low, mask, EVEN)
    k = inv_lam
    if SCALE_SLOT >= 0:
        scale = tl.rsqrt(tl.sum(c * c, 1, keep_dims=True) * inv_width + eps)
        store(stats + SCALE_SLOT * n_rows + rows, scale, row_mask, True, ROWS)
        k = scale * inv_lam
    h, _ = compress(c, k, KIND, SCALE_SLOT >= 0, False, FAST, ASM)  # zero beyond the width, as c is

    mean_h = tl.zeros((ROWS, 1), tl.float32)
    if MEAN_H_SLOT < 0:
        variance = tl.sum(h * h, 1, keep_dims=True) * inv_width
    elif FAST:
        total, squares = row_sums(h, h * h, ASM)
        mean_h = total * inv_width
        variance = tl.maximum(squares * inv_width - mean_h * mean_h, 0.0)
    else:
        mean_h = tl.sum(h, 1, keep_dims=True) * inv_width
        rest = inside(h - mean_h, mask, EVEN)
        variance = tl.sum(rest * rest, 1, keep_dims=True) * inv_width
    rho = tl.rsqrt(variance + eps_h)
    if MEAN_H_SLOT >= 0:
        store(stats + MEAN_H_SLOT * n_rows + rows, mean_h, row_mask, True, ROWS)
    store(stats + RHO_SLOT * n_rows + rows, rho, row_mask, True, ROWS)
    z = standardize(h, mean_h, rho, MEAN_H_SLOT, FAST)
    _write(z, weight, bias, y, rows, columns, width, mask, WEIGHT, BIAS, EVEN, ROWS)


@triton.jit
def forward_tiled(
    x, residual, weight, bias, y, stream, stats,
    x_stride, residual_stride, n_rows, width, inv_width, inv_lam, eps, eps_h,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    RESIDUAL: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of any width, BLOCK columns at a time, with a running sum a column; otherwise as :func:`forward_rows`."""
    inv_lam, inv_width = tl.cast(inv_lam, tl.float32), tl.cast(inv_width, tl.float32)
    eps, eps_h = tl.cast(eps, tl.float32), tl.cast(eps_h, tl.float32)
    rows = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    mean = tl.zeros((1, 1), tl.float32)
    low = tl.zeros((1, 1), tl.float32)
    k = inv_lam + tl.zeros((1, 1), tl.float32)

    if CENTER or RESIDUAL:
        sums = tl.zeros((1, BLOCK), tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            mask = columns < width
            value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
            if RESIDUAL:
                store(stream + rows * width + columns, value, mask, EVEN, 1)
            sums += value
        if CENTER:
            mean = tl.sum(sums, 1, keep_dims=True) * inv_width
            tl.store(stats + rows, mean)
    if CENTER and not FAST:
        sums = tl.zeros((1, BLOCK), tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            mask = columns < width
            value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
            sums += inside(value - mean, mask, EVEN)
        low = tl.sum(sums, 1, keep_dims=True) * inv_width
        tl.store(stats + n_rows + rows, low)
    if SCALE_SLOT >= 0:
        sums = tl.zeros((1, BLOCK), tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            mask = columns < width
            value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
            c = inside(value - mean - low, mask, EVEN)
            sums += c * c
        scale = tl.rsqrt(tl.sum(sums, 1, keep_dims=True) * inv_width + eps)
        tl.store(stats + SCALE_SLOT * n_rows + rows, scale)
        k = scale * inv_lam

    sums = tl.zeros((1, BLOCK), tl.float32)
    squares = tl.zeros((1, BLOCK), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        mask = columns < width
        value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
        h, _ = compress(inside(value - mean - low, mask, EVEN), k, KIND, SCALE_SLOT >= 0, False, FAST, ASM)
        sums += h
        squares += h * h
    mean_h = tl.zeros((1, 1), tl.float32)
    variance = tl.sum(squares, 1, keep_dims=True) * inv_width
    if MEAN_H_SLOT >= 0:
        mean_h = tl.sum(sums, 1, keep_dims=True) * inv_width
        tl.store(stats + MEAN_H_SLOT * n_rows + rows, mean_h)
        if FAST:
            variance = tl.maximum(variance - mean_h * mean_h, 0.0)
        else:
            squares = tl.zeros((1, BLOCK), tl.float32)
            for start in range(0, width, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                mask = columns < width
                value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
                h, _ = compress(value - mean - low, k, KIND, SCALE_SLOT >= 0, False, FAST, ASM)
                rest = inside(h - mean_h, mask, EVEN)
                squares += rest * rest
            variance = tl.sum(squares, 1, keep_dims=True) * inv_width
    rho = tl.rsqrt(variance + eps_h)
    tl.store(stats + RHO_SLOT * n_rows + rows, rho)

    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        mask = columns < width
        value = _input(x, residual, stream, rows, columns, x_stride, residual_stride, mask, RESIDUAL, EVEN, 1)
        h, _ = compress(value - mean - low, k, KIND, SCALE_SLOT >= 0, False, FAST, ASM)
        z = standardize(h, mean_h, rho, MEAN_H_SLOT, FAST)
        _write(z, weight, bias, y, rows, columns, width, mask, WEIGHT, BIAS, EVEN, 1)
