"""The gradients of the filters and scales of the wavelet convolutions."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_kernels import fw_wt_bands, fw_wt_block


@triton.jit
def fw_wt_bands_at(
    ptr, n, c, i, j, inside, H, W, sn, sc, sh, sw, DIMS: tl.constexpr, HAAR: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The bands at (i, j) of an image, or without Haar its pixels alone."""
    if HAAR:
        a, b, c_, d = fw_wt_block(
            ptr + n * sn + c * sc, i, j, inside, H, W, sh, sw, DIMS, ACC
        )  # fmt: skip
        return fw_wt_bands(a, b, c_, d, DIMS)
    mask = inside & (i >= 0) & (i < H) & (j >= 0) & (j < W)
    v = tl.load(ptr + n * sn + c * sc + i * sh + j * sw, mask=mask, other=0.0)
    v = fw_widen(v, ACC)
    return v, v, v, v


@triton.jit
def fw_wt_correlate(
    x_ptr, g_ptr, out_ptr, N, C, H, W, steps, xn, xc, xh, xw, gn, gc, gh, gw,
    DIMS: tl.constexpr, HAAR: tl.constexpr, K: tl.constexpr, PAD: tl.constexpr,
    DOUBLE: tl.constexpr, LANES: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """A program's share of the sums of gradient times input, for one row of taps.

    Every program takes `steps` tiles of positions, counted over all images. The sums of a channel
    stand behind one another, band by band, and after them the sum of the gradient.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    ROWS: tl.constexpr = K if DIMS == 2 else 1
    BANDS: tl.constexpr = (4 if DIMS == 2 else 2) if HAAR else 1
    PAD_Y: tl.constexpr = PAD if DIMS == 2 else 0
    SUMS: tl.constexpr = BANDS * ROWS * K + 1
    h = tl.cdiv(H, 2) if HAAR and DIMS == 2 else H
    w = tl.cdiv(W, 2) if HAAR else W
    blocks = tl.cdiv(C, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    oy = pid % ROWS
    share = pid // (ROWS * blocks)
    c = (pid // ROWS % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[:, None]
    p = (share * steps * BLOCK_P + tl.arange(0, BLOCK_P))[None, :]
    out_ptr += (share * C + c) * SUMS
    lanes = tl.arange(0, LANES)[None, :]
    s0 = tl.zeros((BLOCK_C, LANES), ACC)
    s1, s2, s3 = s0, s0, s0
    own = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    for _ in range(steps):
        n, q = p // (h * w), p % (h * w)
        i, j = q // w, q % w
        inside = (c < C) & (n < N)
        g0, g1, g2, g3 = fw_wt_bands_at(
            g_ptr, n, c, i, j, inside, H, W, gn, gc, gh, gw, DIMS, HAAR, ACC
        )  # fmt: skip
        own += g0
        for ox in tl.static_range(K):
            v0, v1, v2, v3 = fw_wt_bands_at(
                x_ptr, n, c, i + oy - PAD_Y, j + (ox - PAD), inside, H, W, xn, xc, xh, xw,
                DIMS, HAAR, ACC,
            )  # fmt: skip
            here = lanes == ox
            s0 += tl.where(here, tl.sum(g0 * v0, 1)[:, None], 0.0)
            if BANDS > 1:
                s1 += tl.where(here, tl.sum(g1 * v1, 1)[:, None], 0.0)
            if BANDS > 2:
                s2 += tl.where(here, tl.sum(g2 * v2, 1)[:, None], 0.0)
                s3 += tl.where(here, tl.sum(g3 * v3, 1)[:, None], 0.0)
        p += BLOCK_P
    at = out_ptr + oy * K + lanes
    mask = (c < C) & (lanes < K)
    tl.store(at, s0, mask=mask)
    if BANDS > 1:
        tl.store(at + ROWS * K, s1, mask=mask)
    if BANDS > 2:
        tl.store(at + 2 * ROWS * K, s2, mask=mask)
        tl.store(at + 3 * ROWS * K, s3, mask=mask)
    if oy == 0:
        tl.store(out_ptr + SUMS - 1, tl.sum(own, 1)[:, None], mask=c < C)


@triton.jit
def fw_wt_finish(
    partial_ptr, w_ptr, scale_ptr, bias_ptr, dw_ptr, dscale_ptr, dbias_ptr, shares, C,
    BANDS: tl.constexpr, TAPS: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """The gradients of one filter, of its scale, and of the base's bias, from the shares."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    SUMS: tl.constexpr = BANDS * TAPS + 1
    f = tl.program_id(0).to(tl.int64)
    taps = tl.arange(0, BLOCK_T)
    mask = taps < TAPS
    total = tl.zeros((BLOCK_S, BLOCK_T), ACC)
    own = tl.zeros((BLOCK_S,), ACC)
    for start in range(0, shares, BLOCK_S):
        share = start + tl.arange(0, BLOCK_S).to(tl.int64)
        row = partial_ptr + (share * C + f // BANDS) * SUMS
        at = row[:, None] + f % BANDS * TAPS + taps[None, :]
        total += tl.load(at, mask=(share < shares)[:, None] & mask[None, :], other=0.0)
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
