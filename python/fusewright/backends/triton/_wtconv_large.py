"""A level of the wavelet convolutions with filters too large to be unrolled."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_blocks import wt_jit
from fusewright.backends.triton._wtconv_kernels import (
    fw_wt_at,
    fw_wt_place,
    fw_wt_scale,
    fw_wt_weight,
)


@triton.jit
def fw_wt_bands(a, b, c, d, DIMS: tl.constexpr):
    """The Haar bands of blocks a b / c d, or of pairs a b, whose last two are zero."""
    if DIMS == 1:
        s: tl.constexpr = 0.70710678118654752440
        return (a + b) * s, (a - b) * s, a, b
    top, bottom = a + b, c + d
    top_d, bottom_d = a - b, c - d
    return (
        (top + bottom) * 0.5, (top - bottom) * 0.5,
        (top_d + bottom_d) * 0.5, (top_d - bottom_d) * 0.5,
    )  # fmt: skip


@triton.jit
def fw_wt_block(ptr, i, j, inside, H, W, sh, sw, DIMS: tl.constexpr, ACC: tl.constexpr):
    """The four pixels of the block (i, j) of planes at ptr, zero outside; in one dimension two."""
    at = ptr + 2 * i * sh + 2 * j * sw
    top = inside & (i >= 0) & (2 * i < H)
    left = (j >= 0) & (2 * j < W)
    right = (j >= 0) & (2 * j + 1 < W)
    a = fw_widen(tl.load(at, mask=top & left, other=0.0), ACC)
    b = fw_widen(tl.load(at + sw, mask=top & right, other=0.0), ACC)
    if DIMS == 1:
        return a, b, a, b
    low = inside & (i >= 0) & (2 * i + 1 < H)
    c = fw_widen(tl.load(at + sh, mask=low & left, other=0.0), ACC)
    d = fw_widen(tl.load(at + sh + sw, mask=low & right, other=0.0), ACC)
    return a, b, c, d


@wt_jit
def fw_wt_large(
    x_ptr, deeper_ptr, y_ptr, w_ptr, scale_ptr, bw_ptr, bb_ptr, bs_ptr, C, H, W,
    xn, xc, xh, xw, yn, yc, yh, yw,
    DIMS: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr,
    DOUBLE: tl.constexpr, LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A level from the image to what it adds to it, with the deeper levels' part; and the base.

    A program computes blocks of 2 x 2 pixels (pairs in one dimension). The blocks around them
    serve the filters of the bands and, as pixels, the base's filter.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    BANDS: tl.constexpr = 4 if DIMS == 2 else 2
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    TAPS: tl.constexpr = ROWS * K
    h, w = tl.cdiv(H, 2) if DIMS == 2 else H, tl.cdiv(W, 2)
    n, c, i, j = fw_wt_place(C, h, w, BLOCK_C, BLOCK_P)
    inside = (c < C) & (i < h)
    plane = x_ptr + n * xn + c * xc
    zero = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    y0, y1, y2, y3 = zero, zero, zero, zero
    p0, p1, p2, p3 = zero, zero, zero, zero
    for o in range(TAPS):
        y0, y1, y2, y3, p0, p1, p2, p3 = fw_wt_step(
            y0, y1, y2, y3, p0, p1, p2, p3, plane, w_ptr, bw_ptr, c, i, j, o // K, o % K,
            inside, C, H, W, xh, xw, DIMS, K, PAD, FLIP, ACC,
        )  # fmt: skip
    if bw_ptr is not None:
        bias = tl.zeros((BLOCK_C, 1), ACC)
        if bb_ptr is not None:
            bias = fw_widen(tl.load(bb_ptr + c, mask=c < C, other=0.0), ACC)
        scale = fw_widen(tl.load(bs_ptr + c, mask=c < C, other=0.0), ACC)
        p0, p1, p2, p3 = (
            (p0 + bias) * scale, (p1 + bias) * scale, (p2 + bias) * scale, (p3 + bias) * scale
        )  # fmt: skip
    if w_ptr is not None:
        y0 *= fw_wt_scale(scale_ptr, c * BANDS, C * BANDS, ACC)
        y1 *= fw_wt_scale(scale_ptr, c * BANDS + 1, C * BANDS, ACC)
        if deeper_ptr is not None:
            at = deeper_ptr + fw_wt_at(n, c, i, j, C, h, w, LAST)
            y0 += tl.load(at, mask=inside, other=0.0)
        if DIMS == 2:
            y2 *= fw_wt_scale(scale_ptr, c * 4 + 2, C * 4, ACC)
            y3 *= fw_wt_scale(scale_ptr, c * 4 + 3, C * 4, ACC)
            # the transform of blocks is symmetric but for the order of two
            v0, v1, v2, v3 = fw_wt_bands(y0, y2, y1, y3, 2)
            p0 += v0
            p1 += v2
            p2 += v1
            p3 += v3
        else:
            v0, v1, v2, v3 = fw_wt_bands(y0, y1, y0, y1, 1)
            p0 += v0
            p1 += v1
    at = y_ptr + n * yn + c * yc + 2 * j * yw
    right = inside & (2 * j + 1 < W)
    if DIMS == 1:
        tl.store(at, fw_narrow(p0, y_ptr.dtype.element_ty), mask=inside)
        tl.store(at + yw, fw_narrow(p1, y_ptr.dtype.element_ty), mask=right)
    else:
        at += 2 * i * yh
        low = 2 * i + 1 < H
        tl.store(at, fw_narrow(p0, y_ptr.dtype.element_ty), mask=inside)
        tl.store(at + yw, fw_narrow(p1, y_ptr.dtype.element_ty), mask=right)
        tl.store(at + yh, fw_narrow(p2, y_ptr.dtype.element_ty), mask=inside & low)
        tl.store(at + yh + yw, fw_narrow(p3, y_ptr.dtype.element_ty), mask=right & low)


@triton.jit
def fw_wt_step(
    y0, y1, y2, y3, p0, p1, p2, p3, plane, w_ptr, bw_ptr, c, i, j, oy, ox, inside, C, H, W, xh, xw,
    DIMS: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Add what the blocks (oy, ox) further give to the bands y and to the pixels p."""
    BANDS: tl.constexpr = 4 if DIMS == 2 else 2
    TAPS: tl.constexpr = K * K if DIMS == 2 else K
    ty = oy - (PAD if DIMS == 2 else 0)
    tx = ox - PAD
    a, b, d, e = fw_wt_block(plane, i + ty, j + tx, inside, H, W, xh, xw, DIMS, ACC)
    if w_ptr is not None:
        v0, v1, v2, v3 = fw_wt_bands(a, b, d, e, DIMS)
        tap = oy * K + ox
        y0 += v0 * fw_wt_weight(w_ptr, c * BANDS, tap, C * BANDS, TAPS, FLIP, ACC)
        y1 += v1 * fw_wt_weight(w_ptr, c * BANDS + 1, tap, C * BANDS, TAPS, FLIP, ACC)
        if DIMS == 2:
            y2 += v2 * fw_wt_weight(w_ptr, c * 4 + 2, tap, C * 4, TAPS, FLIP, ACC)
            y3 += v3 * fw_wt_weight(w_ptr, c * 4 + 3, tap, C * 4, TAPS, FLIP, ACC)
    if bw_ptr is not None:
        # the tap of the base's filter by which the block's first pixel reaches p0
        ty, tx = ty + oy, tx + ox
        p0 = fw_wt_any(p0, a, b, d, e, bw_ptr, c, C, ty, tx, K, FLIP, DIMS, ACC)
        p1 = fw_wt_any(p1, a, b, d, e, bw_ptr, c, C, ty, tx - 1, K, FLIP, DIMS, ACC)
        if DIMS == 2:
            p2 = fw_wt_any(p2, a, b, d, e, bw_ptr, c, C, ty - 1, tx, K, FLIP, DIMS, ACC)
            p3 = fw_wt_any(p3, a, b, d, e, bw_ptr, c, C, ty - 1, tx - 1, K, FLIP, DIMS, ACC)
    return y0, y1, y2, y3, p0, p1, p2, p3


@triton.jit
def fw_wt_any(
    acc, a, b, d, e, bw_ptr, c, C, ty, tx,
    K: tl.constexpr, FLIP: tl.constexpr, DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add what the pixels a b / d e give, the first through tap (ty, tx), which may not exist."""
    acc += a * fw_wt_tap(bw_ptr, c, C, ty, tx, K, FLIP, DIMS, ACC)
    acc += b * fw_wt_tap(bw_ptr, c, C, ty, tx + 1, K, FLIP, DIMS, ACC)
    if DIMS == 2:
        acc += d * fw_wt_tap(bw_ptr, c, C, ty + 1, tx, K, FLIP, DIMS, ACC)
        acc += e * fw_wt_tap(bw_ptr, c, C, ty + 1, tx + 1, K, FLIP, DIMS, ACC)
    return acc


@triton.jit
def fw_wt_tap(
    ptr, c, C, ty, tx, K: tl.constexpr, FLIP: tl.constexpr, DIMS: tl.constexpr, ACC: tl.constexpr
):
    """A tap of the base's filters, zero outside of them."""
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    if FLIP:
        ty = ROWS - 1 - ty
        tx = K - 1 - tx
    mask = (c < C) & (ty >= 0) & (ty < ROWS) & (tx >= 0) & (tx < K)
    return fw_widen(tl.load(ptr + c * (ROWS * K) + ty * K + tx, mask=mask, other=0.0), ACC)
