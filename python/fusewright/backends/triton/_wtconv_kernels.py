"""The kernels of the wavelet convolutions.

Outside of the image everything is zero, so the low band of level l is 2^-l times the sum over a
block (2^-l/2 in one dimension), and where it ends needs no thought.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_widen
from fusewright.backends.triton._wtconv_blocks import (
    fw_wt_butterfly,
    fw_wt_columns,
    fw_wt_origin,
    fw_wt_store,
    wt_jit,
)


@triton.jit
def fw_wt_place(C, height, width, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Image, channels (a column) and rows and columns of positions (a row) of a program."""
    tiles = tl.cdiv(height * width, BLOCK_P)
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    n = pid // (tiles * blocks)
    c = pid // tiles % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    p = pid % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    return n, c[:, None], (p // width)[None, :], (p % width)[None, :]


@triton.jit
def fw_wt_weight(ptr, c, tap, C, TAPS: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr):
    """One tap of the filters c, none outside; those of the gradient are flipped."""
    if FLIP:
        tap = TAPS - 1 - tap
    return fw_widen(tl.load(ptr + c * TAPS + tap, mask=(c < C), other=0.0), ACC)


@wt_jit
def fw_wt_low(
    x_ptr, low_ptr, C, H, W, xn, xc, xh, xw,
    DIMS: tl.constexpr, DOUBLE: tl.constexpr, LAST: tl.constexpr, EVEN: tl.constexpr,
    PAIRS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The low band."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    NORM: tl.constexpr = 0.5 if DIMS == 2 else 0.70710678118654752440
    h, w = tl.cdiv(H, 2) if DIMS == 2 else H, tl.cdiv(W, 2)
    n, c, i, j = fw_wt_place(C, h, w, BLOCK_C, BLOCK_P)
    inside = (c < C) & (i < h)
    if PAIRS:  # seen to be even
        xh = xh // 2 * 2
    columns = fw_wt_origin(x_ptr, n, c, j, xn, xc, xw, PAIRS)
    column = tl.where(inside, j.to(tl.int32), -2)  # left of the image
    v0, v1, v2, v3 = fw_wt_columns(columns, i, 0, column, H, W, xh, xw, DIMS, EVEN, PAIRS, ACC)
    low, _1, _2, _3 = fw_wt_butterfly(v0, v1, v2, v3, DIMS)
    tl.store(low_ptr + fw_wt_at(n, c, i, j, C, h, w, LAST), low * NORM, mask=inside)


@triton.jit
def fw_wt_at(n, c, i, j, C, h, w, LAST: tl.constexpr):
    """Where an element of a dense intermediate image stands, channels last or not."""
    if LAST:
        return ((n * h + i) * w + j) * C + c
    return ((n * C + c) * h + i) * w + j


@triton.jit
def fw_wt_fill(value, COUNT: tl.constexpr):
    many = ()
    for _ in tl.static_range(COUNT):
        many = many + (value,)
    return many


@triton.jit
def fw_wt_hold(
    ptr, factors, c, C, BANDS: tl.constexpr, TAPS: tl.constexpr, FLIP: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """All taps of the filters c times a factor a band, band by band of a tap."""
    many = ()
    for tap in tl.static_range(TAPS):
        for band in tl.static_range(BANDS):
            weight = fw_wt_weight(ptr, c * BANDS + band, tap, C * BANDS, TAPS, FLIP, ACC)
            many = many + (weight * factors[band],)
    return many


@triton.jit
def fw_wt_factors(ptr, c, C, BANDS: tl.constexpr, NORM: tl.constexpr, ACC: tl.constexpr):
    """The scales of the filters c, and the transforms' factors."""
    many = ()
    for band in tl.static_range(BANDS):
        many = many + (fw_wt_scale(ptr, c * BANDS + band, C * BANDS, ACC) * NORM,)
    return many


@triton.jit
def fw_wt_next(acc, zero, SIZE: tl.constexpr, ROWS: tl.constexpr):
    """What is summed up for a row goes on to the place of the row below."""
    many = ()
    for _ in tl.static_range(SIZE):
        many = many + (zero,)
    for k in tl.static_range(SIZE * (ROWS - 1)):
        many = many + (acc[k],)
    return many


@triton.jit
def fw_wt_part(v, FIRST: tl.constexpr, COUNT: tl.constexpr):
    many = ()
    for k in tl.static_range(COUNT):
        many = many + (v[FIRST + k],)
    return many


@triton.jit
def fw_wt_scaled(v, factors, COUNT: tl.constexpr):
    many = ()
    for k in tl.static_range(COUNT):
        many = many + (v[k] * factors[k],)
    return many


@triton.jit
def fw_wt_filter(
    acc, v, held, ptr, c, C, ox: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    BANDS: tl.constexpr, FLIP: tl.constexpr, HOLD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add what the bands v give to the rows that they reach, through column ox of the filters."""
    many = ()
    for oy in tl.static_range(ROWS):
        for band in tl.static_range(BANDS):
            if HOLD:
                weight = held[(oy * K + ox) * BANDS + band]
            else:
                weight = fw_wt_weight(
                    ptr, c * BANDS + band, oy * K + ox, C * BANDS, ROWS * K, FLIP, ACC
                )  # fmt: skip
            many = many + (acc[oy * BANDS + band] + v[band] * weight,)
    return many


@triton.jit
def fw_wt_pixel(
    total, pixel, held, ptr, c, C, oy: tl.constexpr, ox: tl.constexpr, to: tl.constexpr,
    of: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr,
    HOLD: tl.constexpr, DIMS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add what the pixel `of` of a block gives to the pixel `to` of another one."""
    ty: tl.constexpr = 2 * oy - PAD - to // 2 + of // 2 if DIMS == 2 else 0
    tx: tl.constexpr = 2 * ox - PAD - to % 2 + of % 2
    if ty >= 0 and ty < ROWS and tx >= 0 and tx < K:
        if HOLD:
            weight = held[ty * K + tx]
        else:
            weight = fw_wt_weight(ptr, c, ty * K + tx, C, ROWS * K, FLIP, ACC)
        total += pixel * weight
    return total


@triton.jit
def fw_wt_base(
    acc, pixels, held, ptr, c, C, ox: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    PAD: tl.constexpr, FLIP: tl.constexpr, HOLD: tl.constexpr, DIMS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """As `fw_wt_filter`, from the pixels of a block to those of the blocks that they reach."""
    many = ()
    for oy in tl.static_range(ROWS):
        for to in tl.static_range(2 * DIMS):
            total = acc[oy * 2 * DIMS + to]
            for of in tl.static_range(2 * DIMS):
                total = fw_wt_pixel(
                    total, pixels[of], held, ptr, c, C, oy, ox, to, of, K, ROWS, PAD, FLIP, HOLD,
                    DIMS, ACC,
                )  # fmt: skip
            many = many + (total,)
    return many


@wt_jit
def fw_wt_level(
    x_ptr, deeper_ptr, y_ptr, w_ptr, scale_ptr, bw_ptr, bb_ptr, bs_ptr, N, C, H, W, rows,
    xn, xc, xh, xw, yn, yc, yh, yw,
    DIMS: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr,
    DOUBLE: tl.constexpr, LAST: tl.constexpr, HOLD: tl.constexpr, EVEN: tl.constexpr,
    PAIRS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A level from the image to what it adds to it, with the deeper levels' part; and the base.

    A program computes blocks of 2 x 2 pixels (pairs in one dimension), walking down `rows` of
    them in columns of any images. Every row of blocks that it reads adds to the K rows of sums in
    which the filters use it; those of the last are then complete. EVEN says that the image has
    whole blocks, PAIRS that the two pixels of a row of them are one aligned word.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    BANDS: tl.constexpr = 2 * DIMS
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    PAD_Y: tl.constexpr = PAD if DIMS == 2 else 0
    NORM: tl.constexpr = 0.5 if DIMS == 2 else 0.70710678118654752440
    END: tl.constexpr = BANDS * (ROWS - 1)  # the row of sums that is complete
    h, w = tl.cdiv(H, 2) if DIMS == 2 else H, tl.cdiv(W, 2)
    tiles = tl.cdiv(N * w, BLOCK_P)
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    c = pid // tiles % blocks * BLOCK_C
    if BLOCK_C > 1:  # else the weights are scalars, of which many compile faster
        c = (c + tl.arange(0, BLOCK_C))[:, None]
    p = (pid % tiles * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    first = (pid // (tiles * blocks)).to(tl.int32) * rows
    n, j = p // w, p % w
    inside = (c < C) & (n < N)
    if PAIRS:  # seen to be even
        xh, yh = xh // 2 * 2, yh // 2 * 2
    columns = fw_wt_origin(x_ptr, n, c, j, xn, xc, xw, PAIRS)
    out = fw_wt_origin(y_ptr, n, c, j, yn, yc, yw, PAIRS)
    # outside of everything is left of the image: one comparison tells
    column = tl.where(inside, j.to(tl.int32), -2 * K)
    zero = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    held, base_held = (), ()
    y, z = (), ()
    bias, base_scale = 0.0, 1.0
    if w_ptr is not None:
        y = fw_wt_fill(zero, BANDS * ROWS)
        if HOLD:
            factors = fw_wt_factors(scale_ptr, c, C, BANDS, NORM * NORM, ACC)
            held = fw_wt_hold(w_ptr, factors, c, C, BANDS, ROWS * K, FLIP, ACC)
    if bw_ptr is not None:
        z = fw_wt_fill(zero, BANDS * ROWS)
        base_scale = fw_wt_scale(bs_ptr, c, C, ACC)
        if bb_ptr is not None:
            bias = fw_wt_scale(bb_ptr, c, C, ACC) * base_scale
        if HOLD:
            base_held = fw_wt_hold(bw_ptr, (base_scale,), c, C, 1, ROWS * K, FLIP, ACC)
    # rows above the image add nothing to sums that are zero still
    for t in range(tl.maximum(PAD_Y - first, 0), tl.minimum(rows, h - first) + ROWS - 1):
        i = first + t - PAD_Y
        if i < h:
            for ox in tl.static_range(K):
                pixels = fw_wt_columns(
                    columns, i, ox - PAD, column, H, W, xh, xw, DIMS, EVEN, PAIRS, ACC
                )  # fmt: skip
                if w_ptr is not None:
                    v = fw_wt_butterfly(pixels[0], pixels[1], pixels[2], pixels[3], DIMS)
                    y = fw_wt_filter(y, v, held, w_ptr, c, C, ox, K, ROWS, BANDS, FLIP, HOLD, ACC)
                if bw_ptr is not None:
                    z = fw_wt_base(
                        z, pixels, base_held, bw_ptr, c, C, ox, K, ROWS, PAD, FLIP, HOLD, DIMS, ACC
                    )  # fmt: skip
        if t >= ROWS - 1:
            i = first + t - (ROWS - 1)
            p0, p1, p2, p3 = zero, zero, zero, zero
            if w_ptr is not None:
                done = fw_wt_part(y, END, BANDS)
                if not HOLD:
                    factors = fw_wt_factors(scale_ptr, c, C, BANDS, NORM * NORM, ACC)
                    done = fw_wt_scaled(done, factors, BANDS)
                low = done[0]
                if deeper_ptr is not None:
                    at = deeper_ptr + fw_wt_at(n, c, i, j, C, h, w, LAST)
                    low += tl.load(at, mask=inside, other=0.0) * NORM
                # the transform of blocks is symmetric but for the order of two
                if DIMS == 2:
                    p0, p2, p1, p3 = fw_wt_butterfly(low, done[2], done[1], done[3], 2)
                else:
                    p0, p1, p2, p3 = fw_wt_butterfly(low, done[1], low, done[1], 1)
            if bw_ptr is not None:
                factor = 1.0 if HOLD else base_scale
                p0 += z[END] * factor + bias
                p1 += z[END + 1] * factor + bias
                if DIMS == 2:
                    p2 += z[END + 2] * factor + bias
                    p3 += z[END + 3] * factor + bias
            fw_wt_store(out + 2 * i * yh, p0, p1, column, W, yw, PAIRS)
            if DIMS == 2:
                bottom = column if EVEN else tl.where(2 * i + 1 < H, column, -1)
                fw_wt_store(out + (2 * i + 1) * yh, p2, p3, bottom, W, yw, PAIRS)
        if w_ptr is not None:
            y = fw_wt_next(y, zero, BANDS, ROWS)
        if bw_ptr is not None:
            z = fw_wt_next(z, zero, BANDS, ROWS)


@triton.jit
def fw_wt_scale(ptr, c, C, ACC: tl.constexpr):
    return fw_widen(tl.load(ptr + c, mask=c < C, other=0.0), ACC)
