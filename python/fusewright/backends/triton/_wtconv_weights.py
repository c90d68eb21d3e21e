"""The gradients of the filters and scales of the wavelet convolutions."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_blocks import (
    fw_wt_butterfly,
    fw_wt_columns,
    fw_wt_origin,
    wt_jit,
)
from fusewright.backends.triton._wtconv_kernels import fw_wt_fill
from fusewright.backends.triton._wtconv_phases import fw_wt_phase_at, fw_wt_sign


@triton.jit
def fw_wt_bands_at(
    ptr, i, dj: tl.constexpr, j, H, W, sh, sw, DIMS: tl.constexpr, HAAR: tl.constexpr,
    EVEN: tl.constexpr, PAIRS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The bands in row i and dj columns beside j, ptr standing at (0, j); or the pixels alone.

    The bands lack their factor: twice that of an orthonormal transform.
    """
    if HAAR:
        a, b, c, d = fw_wt_columns(ptr, i, dj, j, H, W, sh, sw, DIMS, EVEN, PAIRS, ACC)
        return fw_wt_butterfly(a, b, c, d, DIMS)
    mask = (j + dj).to(tl.uint32, bitcast=True) < W
    v = fw_widen(tl.load(ptr + i * sh + dj * sw, mask=mask, other=0.0), ACC)
    return v, v, v, v


@triton.jit
def fw_wt_products(sums, rows, v, ox: tl.constexpr, K: tl.constexpr, TAP_ROWS: tl.constexpr,
                   BANDS: tl.constexpr):  # fmt: skip
    """Add to the sums of the taps in column ox the products of v with the rows of gradients."""
    many = ()
    for k in tl.static_range(TAP_ROWS * K * BANDS):
        if k // BANDS % K == ox:
            many = many + (sums[k] + rows[k // (K * BANDS) * BANDS + k % BANDS] * v[k % BANDS],)
        else:
            many = many + (sums[k],)
    return many


@wt_jit
def fw_wt_correlate(
    x_ptr, g_ptr, out_ptr, N, C, H, W, steps, units, chunks, rows, xn, xc, xh, xw, gn, gc, gh, gw,
    DIMS: tl.constexpr, HAAR: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr,
    TAP_ROWS: tl.constexpr, DOUBLE: tl.constexpr, EVEN: tl.constexpr, PAIRS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A program's share of the sums of gradient times input, for `TAP_ROWS` rows of taps.

    It walks down `steps` of the `units`, each a chunk of rows in columns of any images. The sums
    of a channel stand behind one another, band by band, and after them the sum of the gradient.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    BANDS: tl.constexpr = 2 * DIMS if HAAR else 1
    GROUPS: tl.constexpr = ROWS // TAP_ROWS
    PAD_Y: tl.constexpr = PAD if DIMS == 2 else 0
    SUMS: tl.constexpr = BANDS * ROWS * K + 1
    # the factors of both transforms
    NORM: tl.constexpr = (0.25 if DIMS == 2 else 0.5) if HAAR else 1.0
    h = tl.cdiv(H, 2) if HAAR and DIMS == 2 else H
    w = tl.cdiv(W, 2) if HAAR else W
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    group = (pid % GROUPS).to(tl.int32)
    share = pid // (GROUPS * blocks)
    c = (pid // GROUPS % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    if PAIRS:  # seen to be even
        xh, gh = xh // 2 * 2, gh // 2 * 2
    zero = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    sums = fw_wt_fill(zero, BANDS * TAP_ROWS * K)
    own = zero
    for unit in range(share * steps, min((share + 1) * steps, units)):
        p = (unit // chunks * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
        first = (unit % chunks).to(tl.int32) * rows
        n, j = p // w, p % w
        if HAAR:
            x_at = fw_wt_origin(x_ptr, n, c, j, xn, xc, xw, PAIRS)
            g_at = fw_wt_origin(g_ptr, n, c, j, gn, gc, gw, PAIRS)
        else:
            x_at = x_ptr + n * xn + c * xc + j * xw
            g_at = g_ptr + n * gn + c * gc + j * gw
        # outside of everything is left of the image: one comparison tells
        column = tl.where((c < C) & (n < N), j.to(tl.int32), -2 * K)
        count = tl.minimum(rows, h - first)
        gradients = fw_wt_fill(zero, BANDS * TAP_ROWS)
        for t in range(count + TAP_ROWS - 1):
            g = fw_wt_bands_at(
                g_at, first + t, 0, tl.where(t < count, column, -2 * K), H, W, gh, gw, DIMS, HAAR,
                EVEN, PAIRS, ACC,
            )  # fmt: skip
            own += g[0]
            gradients = fw_wt_push(gradients, g, BANDS, TAP_ROWS)
            i = first + t + group * TAP_ROWS - PAD_Y
            if i >= 0 and i < h:
                for ox in tl.static_range(K):
                    v = fw_wt_bands_at(
                        x_at, i, ox - PAD, column, H, W, xh, xw, DIMS, HAAR, EVEN, PAIRS, ACC
                    )  # fmt: skip
                    sums = fw_wt_products(sums, gradients, v, ox, K, TAP_ROWS, BANDS)
    at = out_ptr + (share * C + c) * SUMS
    for tap in tl.static_range(TAP_ROWS * K):
        for band in tl.static_range(BANDS):
            place = at + (band * ROWS + group * TAP_ROWS) * K + tap
            tl.store(place, tl.sum(sums[tap * BANDS + band], 1)[:, None] * NORM, mask=c < C)
    if group == 0:
        tl.store(at + SUMS - 1, tl.sum(own, 1)[:, None], mask=c < C)


@triton.jit
def fw_wt_push(rows, row, SIZE: tl.constexpr, COUNT: tl.constexpr):
    """`row` before all rows but the last."""
    many = ()
    for k in tl.static_range(SIZE):
        many = many + (row[k],)
    for k in tl.static_range(SIZE * (COUNT - 1)):
        many = many + (rows[k],)
    return many


@triton.jit
def fw_wt_of_phases(ptr, f, tap, mask, BANDS: tl.constexpr, K: tl.constexpr):
    """The gradients of a filter's taps, from those of the weights to which they add."""
    PAD: tl.constexpr = (K - 1) // 2
    y, x = tap // K, tap % K
    total = tl.zeros(mask.shape, tl.float32)
    for p in tl.static_range(2):
        for q in tl.static_range(2):
            if BANDS == 1:
                row, column = y + PAD + p, x + PAD + q
                at = fw_wt_phase_at(row // 2, row % 2, p, q, column, K)
                total += tl.load(ptr + at, mask=mask, other=0.0)
            else:
                for s in tl.static_range(2):
                    for r in tl.static_range(2):
                        at = fw_wt_phase_at(y, s, p, q, 2 * x + r, K)
                        sign = fw_wt_sign(f % BANDS, p ^ s, q ^ r) * 0.25
                        total += tl.load(ptr + at, mask=mask, other=0.0) * sign
    return total


@wt_jit
def fw_wt_finish(
    partial_ptr, w_ptr, scale_ptr, bias_ptr, dw_ptr, dscale_ptr, dbias_ptr, shares, C,
    BANDS: tl.constexpr, TAPS: tl.constexpr, K: tl.constexpr, PHASES: tl.constexpr,
    DOUBLE: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The gradients of one filter, of its scale, and of the base's bias, from the shares.

    Those are of the filters themselves or, with PHASES, of the weights of `fw_wt_phases`.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SUMS: tl.constexpr = (16 * K * K if PHASES else BANDS * TAPS) + 1
    f = tl.program_id(0).to(tl.int64)
    taps = tl.arange(0, BLOCK_T)
    mask = taps < TAPS
    total = tl.zeros((BLOCK_S, BLOCK_T), ACC)
    own = tl.zeros((BLOCK_S,), ACC)
    for start in range(0, shares, BLOCK_S):
        share = start + tl.arange(0, BLOCK_S).to(tl.int64)
        row = partial_ptr + (share * C + f // BANDS) * SUMS
        within = (share < shares)[:, None] & mask[None, :]
        if PHASES:
            total += fw_wt_of_phases(row[:, None], f, taps[None, :], within, BANDS, K)
        else:
            at = row[:, None] + f % BANDS * TAPS + taps[None, :]
            total += tl.load(at, mask=within, other=0.0)
        if bias_ptr is not None:
            own += tl.load(row + SUMS - 1, mask=share < shares, other=0.0)
    sums = tl.sum(total, 0)
    scale = fw_widen(tl.load(scale_ptr + f), ACC)
    if dw_ptr is not None:
        dw = fw_narrow(sums * scale, dw_ptr.dtype.element_ty)
        tl.store(dw_ptr + f * TAPS + taps, dw, mask=mask)
    w = fw_widen(tl.load(w_ptr + f * TAPS + taps, mask=mask, other=0.0), ACC)
    slope = tl.sum(w * sums, 0)
    if bias_ptr is not None:
        gradient = tl.sum(own, 0)
        slope += fw_widen(tl.load(bias_ptr + f), ACC) * gradient
        if dbias_ptr is not None:
            tl.store(dbias_ptr + f, fw_narrow(gradient * scale, dbias_ptr.dtype.element_ty))
    if dscale_ptr is not None:
        tl.store(dscale_ptr + f, fw_narrow(slope, dscale_ptr.dtype.element_ty))
