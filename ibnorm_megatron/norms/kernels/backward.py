"""The backward kernels: a persistent one for rows that fit a program's registers, and two column-tiled ones for wider rows.

With w = gamma dy, z the standardized h, s the slope of h, and means over the row,

    p  = (w - mean(w) - z mean(w z)) s
    dx = K (p - mean(p)) [+ ds],                             K = rho chain / lambda             absolute scale
    dx = K (p - mean(p) - c r^2 mean(p c)) [+ ds],           K = rho chain r / lambda           relative scale
    dgamma = sum over rows of dy z,   dbeta = sum over rows of dy

with r = 1 / sqrt(mean(c^2) + eps), ds the gradient that reaches the residual stream from above, and no mean(w) and mean(p)
without centring. Per element a row costs one read of x and dy and one write of dx, and with a residual stream one more read.

dgamma and dbeta: each of a few hundred programs walks its share of the rows with sums in float32 registers and leaves one
row of partial sums ``[programs, width]``; the caller adds those up. Nothing is atomic, so results repeat bit for bit. Above
8,192 columns those registers would spill; there, one kernel makes dx tile by tile and another the partial sums.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .compressions import compress
from .tiles import inside, load, load_parameter, row_sums, saved_deviation, standardize, store


@triton.jit
def saved_z(
    value, stats, rows, n_rows, row_mask, inv_lam,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    FAST: tl.constexpr, ASM: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """From a tile of x and its rows' statistics: c, z, the slope s; and per row k, r and rho."""
    c, k, scale = saved_deviation(value, stats, rows, n_rows, row_mask, inv_lam, CENTER, SCALE_SLOT, FAST, ROWS)
    h, slope = compress(c, k, KIND, SCALE_SLOT >= 0, True, FAST, ASM)
    rho = load(stats + RHO_SLOT * n_rows + rows, row_mask, True, ROWS)
    mean_h = rho
    if MEAN_H_SLOT >= 0:
        mean_h = load(stats + MEAN_H_SLOT * n_rows + rows, row_mask, True, ROWS)
    return c, standardize(h, mean_h, rho, MEAN_H_SLOT, FAST), slope, k, scale, rho


@triton.jit
def backward_rows(
    dy, dstream, x, weight, stats, dx, dweight, dbias,
    dy_stride, dstream_stride, x_stride, n_rows, width, inv_width, inv_lam, chain,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    STREAM: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx of every ``programs``-th tile of ROWS rows, width <= BLOCK, and partial dgamma and dbeta ``[programs, width]``.

    x, dy and dstream have row strides of their own; dx is contiguous. STREAM says that ``dstream`` is added to dx. STAGES
    is how many tiles are in flight from memory.
    """
    inv_lam, inv_width = tl.cast(inv_lam, tl.float32), tl.cast(inv_width, tl.float32)
    chain = tl.cast(chain, tl.float32)
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)[None, :]
    column_mask = columns < width
    gamma = tl.full((1, BLOCK), 1.0, tl.float32)
    if WEIGHT:
        gamma = load_parameter(weight, columns, width, EVEN)
    dweight_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    dbias_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in tl.range(program, tl.cdiv(n_rows, ROWS), tl.num_programs(0), num_stages=STAGES):
        rows = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        row_mask = rows < n_rows
        mask = row_mask & column_mask
        value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        grad = load(dy + rows * dy_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        c, z, slope, k, scale, rho = saved_z(
            value, stats, rows, n_rows, row_mask, inv_lam,
            KIND, CENTER, SCALE_SLOT, MEAN_H_SLOT, RHO_SLOT, FAST, ASM, ROWS,
        )  # fmt: skip
        # dy is zero beyond the width, and with it every sum over dy; only p has to be cut off there.
        if WEIGHT:
            dweight_sum += grad * z
        if BIAS:
            dbias_sum += grad
        w = grad * gamma
        if CENTER:
            mean_w, mean_wz = row_sums(w, w * z, ASM)
            p = inside((w - mean_w * inv_width - z * (mean_wz * inv_width)) * slope, mask, EVEN)
        else:
            p = (w - z * (tl.sum(w * z, 1, keep_dims=True) * inv_width)) * slope
        factor = rho * k * chain
        out = p * factor
        if CENTER and SCALE_SLOT >= 0:
            mean_p, mean_pc = row_sums(p, p * c, ASM)
            out -= c * (factor * scale * scale * mean_pc * inv_width)
            out -= factor * mean_p * inv_width
        elif CENTER:
            out -= factor * tl.sum(p, 1, keep_dims=True) * inv_width
        elif SCALE_SLOT >= 0:
            out -= c * (factor * scale * scale * tl.sum(p * c, 1, keep_dims=True) * inv_width)
        if STREAM:
            out += load(dstream + rows * dstream_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        store(dx + rows * width + columns, out, mask, EVEN, ROWS)
    partial = program * width + columns
    if WEIGHT:
        store(dweight + partial, tl.sum(dweight_sum, 0, keep_dims=True), column_mask, EVEN, 1)
    if BIAS:
        store(dbias + partial, tl.sum(dbias_sum, 0, keep_dims=True), column_mask, EVEN, 1)


@triton.jit
def backward_tiled(
    dy, dstream, x, weight, stats, dx,
    dy_stride, dstream_stride, x_stride, n_rows, width, inv_width, inv_lam, chain,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    STREAM: tl.constexpr, WEIGHT: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx of one row of any width, BLOCK columns at a time: mean(w) and mean(w z); then mean(p) and mean(p c); then dx."""
    inv_lam, inv_width = tl.cast(inv_lam, tl.float32), tl.cast(inv_width, tl.float32)
    chain = tl.cast(chain, tl.float32)
    rows = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    row_mask = rows < n_rows
    mean_w = tl.zeros((1, 1), tl.float32)
    mean_wz = tl.zeros((1, 1), tl.float32)
    mean_p = tl.zeros((1, 1), tl.float32)
    mean_pc = tl.zeros((1, 1), tl.float32)
    for step in tl.static_range(3):
        # Without centring and relative scale nothing is left of the second step.
        if step != 1 or CENTER or SCALE_SLOT >= 0:
            sums = tl.zeros((1, BLOCK), tl.float32)
            products = tl.zeros((1, BLOCK), tl.float32)
            for start in range(0, width, BLOCK):
                columns = start + tl.arange(0, BLOCK)[None, :]
                mask = columns < width
                value = load(x + rows * x_stride + columns, mask, EVEN, 1).to(tl.float32)
                w = load(dy + rows * dy_stride + columns, mask, EVEN, 1).to(tl.float32)
                if WEIGHT:
                    w = w * load_parameter(weight, columns, width, EVEN)
                c, z, slope, k, scale, rho = saved_z(
                    value, stats, rows, n_rows, row_mask, inv_lam,
                    KIND, CENTER, SCALE_SLOT, MEAN_H_SLOT, RHO_SLOT, FAST, ASM, 1,
                )  # fmt: skip
                p = inside((w - mean_w - z * mean_wz) * slope, mask, EVEN)
                if step == 0:
                    sums += w
                    products += w * z
                elif step == 1:
                    sums += p
                    products += p * c
                else:
                    factor = rho * k * chain
                    out = p * factor - c * (factor * scale * scale * mean_pc) - factor * mean_p
                    if STREAM:
                        out += load(dstream + rows * dstream_stride + columns, mask, EVEN, 1).to(tl.float32)
                    store(dx + rows * width + columns, out, mask, EVEN, 1)
            if step == 0:
                mean_wz = tl.sum(products, 1, keep_dims=True) * inv_width
                if CENTER:
                    mean_w = tl.sum(sums, 1, keep_dims=True) * inv_width
            elif step == 1:
                if SCALE_SLOT >= 0:
                    mean_pc = tl.sum(products, 1, keep_dims=True) * inv_width
                if CENTER:
                    mean_p = tl.sum(sums, 1, keep_dims=True) * inv_width


@triton.jit
def parameter_gradients(
    dy, x, stats, dweight, dbias,
    dy_stride, x_stride, n_rows, width, inv_lam,
    KIND: tl.constexpr, CENTER: tl.constexpr, SCALE_SLOT: tl.constexpr, MEAN_H_SLOT: tl.constexpr, RHO_SLOT: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, FAST: tl.constexpr, ASM: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial dgamma and dbeta ``[programs, width]`` of BLOCK columns, over every ``programs``-th tile of ROWS rows."""
    inv_lam = tl.cast(inv_lam, tl.float32)
    program = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    column_mask = columns < width
    dweight_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    dbias_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in range(program, tl.cdiv(n_rows, ROWS), tl.num_programs(1)):
        rows = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        row_mask = rows < n_rows
        mask = row_mask & column_mask
        grad = load(dy + rows * dy_stride + columns, mask, EVEN, ROWS).to(tl.float32)
        dbias_sum += grad
        if WEIGHT:
            value = load(x + rows * x_stride + columns, mask, EVEN, ROWS).to(tl.float32)
            _, z, _, _, _, _ = saved_z(
                value, stats, rows, n_rows, row_mask, inv_lam,
                KIND, CENTER, SCALE_SLOT, MEAN_H_SLOT, RHO_SLOT, FAST, ASM, ROWS,
            )  # fmt: skip
            dweight_sum += grad * z
    partial = program * width + columns
    if WEIGHT:
        store(dweight + partial, tl.sum(dweight_sum, 0, keep_dims=True), column_mask, EVEN, 1)
    if BIAS:
        store(dbias + partial, tl.sum(dbias_sum, 0, keep_dims=True), column_mask, EVEN, 1)
