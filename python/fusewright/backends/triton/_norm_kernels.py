"""The kernels of layer_norm and rms_norm: rows in registers, or in pieces where they are longer."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import (
    NONE,
    fw_activate,
    fw_activate_grad,
    fw_column_offset,
    fw_narrow,
    fw_row_offset,
    fw_widen,
)
from fusewright.backends.triton._norm_tiles import (
    fw_norm_add,
    fw_norm_affine,
    fw_norm_exact,
    fw_norm_load,
    fw_norm_parameter,
    fw_norm_sum,
)


@triton.jit
def fw_norm_forward(
    x_ptr, r_ptr, w_ptr, b_ptr, y_ptr, total_ptr, mean_ptr, rstd_ptr, row_count, n, l1, l2, n1,
    x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1,
    EPS: tl.constexpr, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, CENTRED: tl.constexpr,
    ROUND: tl.constexpr, WIDE: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """FULL says that a row has BLOCK_N elements: the compiler then drops every mask of columns."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    if FULL:
        n = BLOCK_N
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.arange(0, BLOCK_N).to(INDEX)
    inside = rows < row_count
    mask = inside[:, None] & (columns < n)[None, :]
    h = fw_norm_sum(
        x_ptr, r_ptr, rows, columns, mask, l1, l2, n1,
        x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1, ACC,
    )  # fmt: skip
    out = rows[:, None] * n + columns[None, :]
    if total_ptr is not None:
        tl.store(total_ptr + out, fw_narrow(h, total_ptr.dtype.element_ty), mask=mask)
    if CENTRED:
        mean = tl.sum(h, 1) / n
        tl.store(mean_ptr + rows, mean, mask=inside)
        h = tl.where(mask, h - mean[:, None], 0.0)
        variance = tl.sum(h * h, 1) / n
        if fw_norm_exact(x_ptr):
            rest = tl.sum(h, 1) / n
            variance -= rest * rest
            h -= rest[:, None]
    else:
        variance = tl.sum(h * h, 1) / n
    rstd = tl.rsqrt(variance + EPS)
    tl.store(rstd_ptr + rows, rstd, mask=inside)
    v = h * rstd[:, None]
    if ROUND:
        v = fw_widen(fw_narrow(v, y_ptr.dtype.element_ty), ACC)
    v = fw_activate(fw_norm_affine(v, w_ptr, b_ptr, columns, n, OFFSET, ACC), ACTIVATION)
    tl.store(y_ptr + out, fw_narrow(v, y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def fw_norm_forward_long(
    x_ptr, r_ptr, w_ptr, b_ptr, y_ptr, total_ptr, mean_ptr, rstd_ptr, row_count, n, l1, l2, n1,
    x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1,
    EPS: tl.constexpr, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, CENTRED: tl.constexpr,
    ROUND: tl.constexpr, WIDE: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """As above for one row; every pass but the first finds it in the cache."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    rows = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    sums = tl.zeros((1, BLOCK_N), ACC)
    if CENTRED:
        for start in range(0, n, BLOCK_N):
            columns = start + tl.arange(0, BLOCK_N).to(INDEX)
            sums += fw_norm_sum(
                x_ptr, r_ptr, rows, columns, (columns < n)[None, :], l1, l2, n1,
                x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1, ACC,
            )  # fmt: skip
    mean = tl.sum(sums, 1) / n
    if CENTRED:
        tl.store(mean_ptr + rows, mean)
    sums = tl.zeros((1, BLOCK_N), ACC)
    squares = tl.zeros((1, BLOCK_N), ACC)
    for start in range(0, n, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = (columns < n)[None, :]
        h = fw_norm_sum(
            x_ptr, r_ptr, rows, columns, mask, l1, l2, n1,
            x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1, ACC,
        )  # fmt: skip
        if total_ptr is not None:
            out = rows[:, None] * n + columns[None, :]
            tl.store(total_ptr + out, fw_narrow(h, total_ptr.dtype.element_ty), mask=mask)
        if CENTRED:
            h = tl.where(mask, h - mean[:, None], 0.0)
            sums += h
        squares += h * h
    rest = tl.sum(sums, 1) / n
    rstd = tl.rsqrt(tl.sum(squares, 1) / n - rest * rest + EPS)
    tl.store(rstd_ptr + rows, rstd)
    for start in range(0, n, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N).to(INDEX)
        mask = (columns < n)[None, :]
        h = fw_norm_sum(
            x_ptr, r_ptr, rows, columns, mask, l1, l2, n1,
            x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1, ACC,
        )  # fmt: skip
        if CENTRED:
            h = (h - mean[:, None]) - rest[:, None]
        v = h * rstd[:, None]
        if ROUND:
            v = fw_widen(fw_narrow(v, y_ptr.dtype.element_ty), ACC)
        v = fw_activate(fw_norm_affine(v, w_ptr, b_ptr, columns, n, OFFSET, ACC), ACTIVATION)
        out = rows[:, None] * n + columns[None, :]
        tl.store(y_ptr + out, fw_narrow(v, y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def fw_norm_slope(
    g, v, w_ptr, b_ptr, columns, n, OFFSET: tl.constexpr, ACTIVATION: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The gradient at the input of the activation."""
    if ACTIVATION != NONE:
        g *= fw_activate_grad(fw_norm_affine(v, w_ptr, b_ptr, columns, n, OFFSET, ACC), ACTIVATION)
    return g


@triton.jit
def fw_norm_backward(
    x_ptr, g_ptr, gt_ptr, dx_ptr, w_ptr, b_ptr, mean_ptr, rstd_ptr, dw_ptr, db_ptr,
    row_count, n, l1, l2, n1,
    x0, x1, x2, xt0, xt1, g0, g1, g2, gy0, gy1, h0, h1, h2, ht0, ht1, d0, d1, d2, dt0, dt1,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, CENTRED: tl.constexpr, ROUND: tl.constexpr,
    WIDE: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Every program takes every so many-th tile; its sums are a row of `dw` and `db`."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    columns = tl.arange(0, BLOCK_N).to(INDEX)
    dw = tl.zeros((BLOCK_R, BLOCK_N), ACC)
    db = tl.zeros((BLOCK_R, BLOCK_N), ACC)
    first = tl.program_id(0).to(tl.int64)
    for tile in range(first, tl.cdiv(row_count, BLOCK_R), tl.num_programs(0)):
        rows = tile * BLOCK_R + tl.arange(0, BLOCK_R)
        inside = rows < row_count
        mask = inside[:, None] & (columns < n)[None, :]
        h = fw_norm_load(x_ptr, rows, columns, mask, l1, l2, n1, x0, x1, x2, xt0, xt1, ACC)
        g = fw_norm_load(g_ptr, rows, columns, mask, l1, l2, n1, g0, g1, g2, gy0, gy1, ACC)
        rstd = tl.load(rstd_ptr + rows, mask=inside, other=0.0)[:, None]
        if CENTRED:
            mean = tl.load(mean_ptr + rows, mask=inside, other=0.0)[:, None]
            h = tl.where(mask, h - mean, 0.0)
            if fw_norm_exact(x_ptr):
                h -= (tl.sum(h, 1) / n)[:, None]
        v = h * rstd
        rounded = v
        if ROUND:
            rounded = fw_widen(fw_narrow(v, g_ptr.dtype.element_ty), ACC)
        g = fw_norm_slope(g, rounded, w_ptr, b_ptr, columns, n, OFFSET, ACTIVATION, ACC)
        if dw_ptr is not None:
            dw += g * rounded
        if db_ptr is not None:
            db += g
        if dx_ptr is not None:
            if w_ptr is not None:
                g *= fw_norm_parameter(w_ptr, columns, n, 0.0, ACC) + OFFSET
            if CENTRED:
                slope, shift = tl.reduce((g * v, g), 1, fw_norm_add)  # one exchange for both
                dx = ((g - (shift / n)[:, None]) - v * (slope / n)[:, None]) * rstd
            else:
                slope = tl.sum(g * v, 1) / n
                dx = (g - v * slope[:, None]) * rstd
            if gt_ptr is not None:
                dx += fw_norm_load(
                    gt_ptr, rows, columns, mask, l1, l2, n1, h0, h1, h2, ht0, ht1, ACC
                )
            at = fw_row_offset(rows, l1, l2, d0, d1, d2)[:, None]
            at += fw_column_offset(columns, n1, dt0, dt1)[None, :]
            tl.store(dx_ptr + at, fw_narrow(dx, dx_ptr.dtype.element_ty), mask=mask)
    own = tl.program_id(0).to(tl.int64) * n + columns
    if dw_ptr is not None:
        tl.store(dw_ptr + own, tl.sum(dw, 0), mask=columns < n)
    if db_ptr is not None:
        tl.store(db_ptr + own, tl.sum(db, 0), mask=columns < n)


@triton.jit
def fw_norm_backward_long(
    x_ptr, g_ptr, gt_ptr, dx_ptr, w_ptr, b_ptr, mean_ptr, rstd_ptr, dw_ptr, db_ptr,
    row_count, n, l1, l2, n1,
    x0, x1, x2, xt0, xt1, g0, g1, g2, gy0, gy1, h0, h1, h2, ht0, ht1, d0, d1, d2, dt0, dt1,
    OFFSET: tl.constexpr, ACTIVATION: tl.constexpr, CENTRED: tl.constexpr, ROUND: tl.constexpr,
    WIDE: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """As above in pieces of a row; the sums stay in the program's own row of `dw` and `db`."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    own = tl.program_id(0).to(tl.int64) * n
    first = tl.program_id(0).to(tl.int64)
    for row in range(first, row_count, tl.num_programs(0)):
        rows = row + tl.arange(0, 1)
        rstd = tl.load(rstd_ptr + rows)[:, None]
        mean = tl.zeros((1, 1), ACC)
        rest = tl.zeros((1, 1), ACC)
        if CENTRED:
            mean = tl.load(mean_ptr + rows)[:, None]
            sums = tl.zeros((1, BLOCK_N), ACC)
            for start in range(0, n, BLOCK_N):
                columns = start + tl.arange(0, BLOCK_N).to(INDEX)
                mask = (columns < n)[None, :]
                h = fw_norm_load(x_ptr, rows, columns, mask, l1, l2, n1, x0, x1, x2, xt0, xt1, ACC)
                sums += tl.where(mask, h - mean, 0.0)
            rest = (tl.sum(sums, 1) / n)[:, None]
        slopes = tl.zeros((1, BLOCK_N), ACC)
        shifts = tl.zeros((1, BLOCK_N), ACC)
        for start in range(0, n, BLOCK_N):
            columns = start + tl.arange(0, BLOCK_N).to(INDEX)
            mask = (columns < n)[None, :]
            h = fw_norm_load(x_ptr, rows, columns, mask, l1, l2, n1, x0, x1, x2, xt0, xt1, ACC)
            g = fw_norm_load(g_ptr, rows, columns, mask, l1, l2, n1, g0, g1, g2, gy0, gy1, ACC)
            v = ((h - mean) - rest) * rstd
            rounded = v
            if ROUND:
                rounded = fw_widen(fw_narrow(v, g_ptr.dtype.element_ty), ACC)
            g = fw_norm_slope(g, rounded, w_ptr, b_ptr, columns, n, OFFSET, ACTIVATION, ACC)
            at = own + columns[None, :]
            if dw_ptr is not None:
                before = tl.load(dw_ptr + at, mask=mask & (row != first), other=0.0)
                tl.store(dw_ptr + at, before + g * rounded, mask=mask)
            if db_ptr is not None:
                before = tl.load(db_ptr + at, mask=mask & (row != first), other=0.0)
                tl.store(db_ptr + at, before + g, mask=mask)
            if w_ptr is not None:
                g *= fw_norm_parameter(w_ptr, columns, n, 0.0, ACC) + OFFSET
            slopes += g * v
            shifts += g
        slope = (tl.sum(slopes, 1) / n)[:, None]
        shift = (tl.sum(shifts, 1) / n)[:, None]
        if dx_ptr is not None:
            for start in range(0, n, BLOCK_N):
                columns = start + tl.arange(0, BLOCK_N).to(INDEX)
                mask = (columns < n)[None, :]
                h = fw_norm_load(x_ptr, rows, columns, mask, l1, l2, n1, x0, x1, x2, xt0, xt1, ACC)
                g = fw_norm_load(g_ptr, rows, columns, mask, l1, l2, n1, g0, g1, g2, gy0, gy1, ACC)
                v = ((h - mean) - rest) * rstd
                rounded = v
                if ROUND:
                    rounded = fw_widen(fw_narrow(v, g_ptr.dtype.element_ty), ACC)
                g = fw_norm_slope(g, rounded, w_ptr, b_ptr, columns, n, OFFSET, ACTIVATION, ACC)
                if w_ptr is not None:
                    g *= fw_norm_parameter(w_ptr, columns, n, 0.0, ACC) + OFFSET
                dx = (g - v * slope) * rstd
                if CENTRED:
                    dx -= shift * rstd
                if gt_ptr is not None:
                    dx += fw_norm_load(
                        gt_ptr, rows, columns, mask, l1, l2, n1, h0, h1, h2, ht0, ht1, ACC
                    )
                at = fw_row_offset(rows, l1, l2, d0, d1, d2)[:, None]
                at += fw_column_offset(columns, n1, dt0, dt1)[None, :]
                tl.store(dx_ptr + at, fw_narrow(dx, dx_ptr.dtype.element_ty), mask=mask)
