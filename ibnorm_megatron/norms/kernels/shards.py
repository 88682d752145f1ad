"""Kernels for rows whose hidden dimension is sharded over a process group: what a rank does between the all-reduces.

    forward    moments -> all-reduce -> compressed_sums -> all-reduce -> write
    backward   gradient_sums -> all-reduce -> gradient_write, and ``parameter_gradients`` of :mod:`backward`

Every kernel walks a tile of ROWS rows BLOCK columns at a time, whatever the local width. Sums are kept a column in float32
until a row's end and leave in float64, so that sums of squares over all shards can be subtracted from one another. The
formulas are those of :mod:`ibnorm_megatron.norms.sharded`, with the h and s of :mod:`folding` and c in the place of u.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .backward import saved_z
from .compressions import compress
from .tiles import inside, load, load_parameter, saved_deviation, standardize, store


@triton.jit
def _store_sum(sums, slot: tl.constexpr, total, rows, n_rows, row_mask, ROWS: tl.constexpr):
    """The row sums of ``total`` into ``sums[slot]``, in float64."""
    store(sums + slot * n_rows + rows, tl.sum(total, 1, keep_dims=True), row_mask, True, ROWS)


@triton.jit
def moments(x, sums, x_stride, n_rows, width, inv_width, EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """sum x and sum x^2 of the local columns, into ``sums[1]`` and ``sums[2]`` of float64 ``[3, n_rows]``.

    Both are taken about the local mean first, and moved to zero in float64: nothing is lost at a large mean.
    """
    inv_width = tl.cast(inv_width, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    row_mask = rows < n_rows
    mean = tl.zeros((ROWS, 1), tl.float32)
    rest = tl.zeros((ROWS, BLOCK), tl.float32)
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for step in tl.static_range(2):
        rest = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)[None, :]
            mask = row_mask & (columns < width)
            c = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
            c = inside(c - mean, mask, EVEN)
            rest += c
            if step == 1:
                squares += c * c
        if step == 0:
            mean = tl.sum(rest, 1, keep_dims=True) * inv_width
    wide_mean = mean.to(tl.float64)
    local = wide_mean * width
    total = local + tl.sum(rest, 1, keep_dims=True).to(tl.float64)
    second = tl.sum(squares, 1, keep_dims=True).to(tl.float64) + wide_mean * (2 * total - local)
    store(sums + n_rows + rows, total, row_mask, True, ROWS)
    store(sums + 2 * n_rows + rows, second, row_mask, True, ROWS)


@triton.jit
def compressed_sums(
    x, stats, sums, x_stride, n_rows, width, inv_lam,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    FAST: tl.constexpr, ASM: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of h, h^2, s, h s and, for the relative scale, s c and h s c, into float64 ``[4 or 6, n_rows]``."""
    inv_lam = tl.cast(inv_lam, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    row_mask = rows < n_rows
    sum_h = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_hh = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_s = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_hs = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_sc = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_hsc = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        mask = row_mask & (columns < width)
        value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        c, k, _ = saved_deviation(value, stats, rows, n_rows, row_mask, inv_lam, CENTER, SCALE_SLOT, FAST, ROWS)
        h, s = compress(inside(c, mask, EVEN), k, KIND, SCALE_SLOT >= 0, True, FAST, ASM)  # h is zero where c is
        s = inside(s, mask, EVEN)
        sum_h += h
        sum_hh += h * h
        sum_s += s
        sum_hs += h * s
        if SCALE_SLOT >= 0:
            sum_sc += s * c
            sum_hsc += h * s * c
    _store_sum(sums, 0, sum_h, rows, n_rows, row_mask, ROWS)
    _store_sum(sums, 1, sum_hh, rows, n_rows, row_mask, ROWS)
    _store_sum(sums, 2, sum_s, rows, n_rows, row_mask, ROWS)
    _store_sum(sums, 3, sum_hs, rows, n_rows, row_mask, ROWS)
    if SCALE_SLOT >= 0:
        _store_sum(sums, 4, sum_sc, rows, n_rows, row_mask, ROWS)
        _store_sum(sums, 5, sum_hsc, rows, n_rows, row_mask, ROWS)


@triton.jit
def write(
    x, weight, bias, stats, y, x_stride, n_rows, width, inv_lam,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = gamma z + beta of the local columns, from the whole row's statistics."""
    inv_lam = tl.cast(inv_lam, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    row_mask = rows < n_rows
    mask = row_mask & (columns < width)
    value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
    c, k, _ = saved_deviation(value, stats, rows, n_rows, row_mask, inv_lam, CENTER, SCALE_SLOT, FAST, ROWS)
    h, _ = compress(c, k, KIND, SCALE_SLOT >= 0, False, FAST, ASM)
    rho = load(stats + RHO_SLOT * n_rows + rows, row_mask, True, ROWS)
    mean_h = rho
    if MEAN_H_SLOT >= 0:
        mean_h = load(stats + MEAN_H_SLOT * n_rows + rows, row_mask, True, ROWS)
    z = standardize(h, mean_h, rho, MEAN_H_SLOT, FAST)
    if WEIGHT:
        z = z * load_parameter(weight, columns, width, EVEN)
    if BIAS:
        z = z + load_parameter(bias, columns, width, EVEN)
    store(y + rows * width + columns, z, mask, EVEN, ROWS)


@triton.jit
def gradient_sums(
    dy, x, weight, stats, sums, dy_stride, x_stride, n_rows, width, inv_lam,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    WEIGHT: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of w, w z, w s and, for the relative scale, w s c, into float64 ``[3 or 4, n_rows]``."""
    inv_lam = tl.cast(inv_lam, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    row_mask = rows < n_rows
    sum_w = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_wz = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_ws = tl.zeros((ROWS, BLOCK), tl.float32)
    sum_wsc = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)[None, :]
        mask = row_mask & (columns < width)
        value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        w = load(dy + rows * dy_stride + columns, mask, EVEN, ROWS).to(tl.float32)  # zero beyond the width: so is every term
        if WEIGHT:
            w = w * load_parameter(weight, columns, width, EVEN)
        c, z, s, _, _, _ = saved_z(
            value, stats, rows, n_rows, row_mask, inv_lam,
            KIND, CENTER, SCALE_SLOT, MEAN_H_SLOT, RHO_SLOT, FAST, ASM, ROWS,
        )  # fmt: skip
        sum_w += w
        sum_wz += w * z
        sum_ws += w * s
        if SCALE_SLOT >= 0:
            sum_wsc += w * s * c
    _store_sum(sums, 0, sum_w, rows, n_rows, row_mask, ROWS)
    _store_sum(sums, 1, sum_wz, rows, n_rows, row_mask, ROWS)
    _store_sum(sums, 2, sum_ws, rows, n_rows, row_mask, ROWS)
    if SCALE_SLOT >= 0:
        _store_sum(sums, 3, sum_wsc, rows, n_rows, row_mask, ROWS)


@triton.jit
def gradient_write(
    dy, x, weight, stats, means, dx, dy_stride, x_stride, n_rows, width, inv_lam, chain,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    WEIGHT: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of the local columns; ``means`` is float32 ``[4, n_rows]``: the whole row's means of w, w z, p and p c."""
    inv_lam, chain = tl.cast(inv_lam, tl.float32), tl.cast(chain, tl.float32)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    row_mask = rows < n_rows
    mask = row_mask & (columns < width)
    value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
    w = load(dy + rows * dy_stride + columns, mask, EVEN, ROWS).to(tl.float32)
    if WEIGHT:
        w = w * load_parameter(weight, columns, width, EVEN)
    c, z, s, k, scale, rho = saved_z(
        value, stats, rows, n_rows, row_mask, inv_lam,
        KIND, CENTER, SCALE_SLOT, MEAN_H_SLOT, RHO_SLOT, FAST, ASM, ROWS,
    )  # fmt: skip
    mean_w = load(means + rows, row_mask, True, ROWS)
    mean_wz = load(means + n_rows + rows, row_mask, True, ROWS)
    out = (w - mean_w - z * mean_wz) * s - load(means + 2 * n_rows + rows, row_mask, True, ROWS)
    if SCALE_SLOT >= 0:
        out -= c * (scale * scale * load(means + 3 * n_rows + rows, row_mask, True, ROWS))
    store(dx + rows * width + columns, out * (rho * k * chain), mask, EVEN, ROWS)
