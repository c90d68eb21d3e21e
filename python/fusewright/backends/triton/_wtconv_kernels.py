"""The kernels of the wavelet convolutions.

Outside of the image everything is zero, so the low band of level l is 2^-l times the sum over a
block (2^-l/2 in one dimension), and where it ends needs no thought.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_blocks import fw_wt_butterfly, fw_wt_columns


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


@triton.jit
def fw_wt_weight(ptr, c, tap, C, TAPS: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr):
    """One tap of the filters c, none outside; those of the gradient are flipped."""
    if FLIP:
        tap = TAPS - 1 - tap
    return fw_widen(tl.load(ptr + c * TAPS + tap, mask=(c < C), other=0.0), ACC)


@triton.jit
def fw_wt_low(
    x_ptr, low_ptr, C, H, W, xn, xc, xh, xw,
    DIMS: tl.constexpr, DOUBLE: tl.constexpr, LAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The low band."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    h, w = tl.cdiv(H, 2) if DIMS == 2 else H, tl.cdiv(W, 2)
    n, c, i, j = fw_wt_place(C, h, w, BLOCK_C, BLOCK_P)
    inside = (c < C) & (i < h)
    v0, v1, v2, v3 = fw_wt_block(
        x_ptr + n * xn + c * xc, i, j, inside, H, W, xh, xw, DIMS, ACC
    )  # fmt: skip
    low, _1, _2, _3 = fw_wt_bands(v0, v1, v2, v3, DIMS)
    tl.store(low_ptr + fw_wt_at(n, c, i, j, C, h, w, LAST), low, mask=inside)


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
    ptr, c, C, BANDS: tl.constexpr, TAPS: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr
):
    """All taps of the filters c, band by band of a tap."""
    many = ()
    for tap in tl.static_range(TAPS):
        for band in tl.static_range(BANDS):
            weight = fw_wt_weight(ptr, c * BANDS + band, tap, C * BANDS, TAPS, FLIP, ACC)
            many = many + (weight,)
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


@triton.jit
def fw_wt_level(
    x_ptr, deeper_ptr, y_ptr, w_ptr, scale_ptr, bw_ptr, bb_ptr, bs_ptr, N, C, H, W, rows,
    xn, xc, xh, xw, yn, yc, yh, yw,
    DIMS: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr,
    DOUBLE: tl.constexpr, LAST: tl.constexpr, HOLD: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A level from the image to what it adds to it, with the deeper levels' part; and the base.

    A program computes blocks of 2 x 2 pixels (pairs in one dimension), walking down `rows` of
    them in columns of any images. Every row of blocks that it reads adds to the K rows of sums in
    which the filters use it; those of the last are then complete.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    BANDS: tl.constexpr = 2 * DIMS
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    PAD_Y: tl.constexpr = PAD if DIMS == 2 else 0
    NORM: tl.constexpr = 0.5 if DIMS == 2 else 0.70710678118654752440
    h, w = tl.cdiv(H, 2) if DIMS == 2 else H, tl.cdiv(W, 2)
    tiles = tl.cdiv(N * w, BLOCK_P)
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    c = (pid // tiles % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    p = (pid % tiles * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    first = pid // (tiles * blocks) * rows
    n, j = p // w, p % w
    inside = (c < C) & (n < N)
    columns = x_ptr + n * xn + c * xc + 2 * j * xw
    out = y_ptr + n * yn + c * yc + 2 * j * yw
    zero = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    held, base_held = (), ()
    y, z = (), ()
    bias, base_scale = 0.0, 1.0
    if w_ptr is not None:
        y = fw_wt_fill(zero, BANDS * ROWS)
        if HOLD:
            held = fw_wt_hold(w_ptr, c, C, BANDS, ROWS * K, FLIP, ACC)
    if bw_ptr is not None:
        z = fw_wt_fill(zero, BANDS * ROWS)
        if HOLD:
            base_held = fw_wt_hold(bw_ptr, c, C, 1, ROWS * K, FLIP, ACC)
        base_scale = fw_wt_scale(bs_ptr, c, C, ACC)
        if bb_ptr is not None:
            bias = fw_wt_scale(bb_ptr, c, C, ACC)
    for t in range(min(rows, h - first) + ROWS - 1):
        i = first + t - PAD_Y
        for ox in tl.static_range(K):
            pixels = fw_wt_columns(columns, i, ox - PAD, j, inside, H, W, xh, xw, DIMS, ACC)
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
                LOW: tl.constexpr = BANDS * (ROWS - 1)
                y0 = y[LOW] * (fw_wt_scale(scale_ptr, c * BANDS, C * BANDS, ACC) * NORM)
                y1 = y[LOW + 1] * (fw_wt_scale(scale_ptr, c * BANDS + 1, C * BANDS, ACC) * NORM)
                y2, y3 = y0, y1
                if DIMS == 2:
                    y2 = y[LOW + 2] * (fw_wt_scale(scale_ptr, c * 4 + 2, C * 4, ACC) * NORM)
                    y3 = y[LOW + 3] * (fw_wt_scale(scale_ptr, c * 4 + 3, C * 4, ACC) * NORM)
                if deeper_ptr is not None:
                    at = deeper_ptr + fw_wt_at(n, c, i, j, C, h, w, LAST)
                    y0 += tl.load(at, mask=inside, other=0.0)
                # the transform of blocks is symmetric but for the order of two
                if DIMS == 2:
                    p0, p2, p1, p3 = fw_wt_butterfly(y0, y2, y1, y3, 2)
                else:
                    p0, p1, p2, p3 = fw_wt_butterfly(y0, y1, y0, y1, 1)
                p0, p1, p2, p3 = p0 * NORM, p1 * NORM, p2 * NORM, p3 * NORM
            if bw_ptr is not None:
                END: tl.constexpr = BANDS * (ROWS - 1)
                p0 += (z[END] + bias) * base_scale
                p1 += (z[END + 1] + bias) * base_scale
                if DIMS == 2:
                    p2 += (z[END + 2] + bias) * base_scale
                    p3 += (z[END + 3] + bias) * base_scale
            DTYPE: tl.constexpr = y_ptr.dtype.element_ty
            fw_wt_store(out + 2 * i * yh, p0, p1, j, inside, W, yw, DTYPE)
            if DIMS == 2:
                low = inside & (2 * i + 1 < H)
                fw_wt_store(out + (2 * i + 1) * yh, p2, p3, j, low, W, yw, DTYPE)
        if w_ptr is not None:
            y = fw_wt_next(y, zero, BANDS, ROWS)
        if bw_ptr is not None:
            z = fw_wt_next(z, zero, BANDS, ROWS)


@triton.jit
def fw_wt_store(at, even, odd, j, inside, W, sw, DTYPE: tl.constexpr):
    tl.store(at, fw_narrow(even, DTYPE), mask=inside)
    right = inside & (2 * j + 1 < W)
    tl.store(at + sw, fw_narrow(odd, DTYPE), mask=right)


@triton.jit
def fw_wt_scale(ptr, c, C, ACC: tl.constexpr):
    return fw_widen(tl.load(ptr + c, mask=c < C, other=0.0), ACC)
