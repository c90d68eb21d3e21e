"""The base's filter and the first level's as one filter of pairs of rows.

Both are sums over pixels, of which the weights depend on the parities of the pixel written and of
the pixel read, its phases. With K x K filters a pixel in row 2 i + p and column 2 j + q reads the
rows 2 (i + y - PAD) + s for y < K and s < 2, and the columns 2 (j - PAD) + d for d < 2 K. The
weights of a channel stand in the order [y, s, p, q, d].
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_blocks import wt_jit


@triton.jit
def fw_wt_phase_at(y, s, p, q, d, K: tl.constexpr):
    return (((y * 2 + s) * 2 + p) * 2 + q) * (2 * K) + d


@triton.jit
def fw_wt_sign(band, rows, columns):
    """The sign with which a band passes between two pixels of blocks, whose parities differ so."""
    return 1 - 2 * (((band & 1) & rows) ^ ((band >> 1) & columns))


@wt_jit
def fw_wt_phases(
    w_ptr, scale_ptr, bw_ptr, bs_ptr, out_ptr, factor_ptr,
    K: tl.constexpr, PAD: tl.constexpr, FLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The weights of a channel in 16 bits, and the factor that they lack.

    It is a power of two: with it the largest of them is 1 to 2, far from where 16 bits end.
    """
    c = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    d = e % (2 * K)
    q = e // (2 * K) % 2
    p = e // (4 * K) % 2
    s = e // (8 * K) % 2
    y = e // (16 * K)
    inside = e < 16 * K * K
    ty, tx = 2 * y + s - PAD - p, d - PAD - q
    tap = ty * K + tx
    if FLIP:
        tap = K * K - 1 - tap
    mask = inside & (ty >= 0) & (ty < K) & (tx >= 0) & (tx < K)
    total = fw_widen(tl.load(bw_ptr + c * (K * K) + tap, mask=mask, other=0.0), tl.float32)
    total *= fw_widen(tl.load(bs_ptr + c), tl.float32)
    if w_ptr is not None:
        tap = y * K + d // 2
        if FLIP:
            tap = K * K - 1 - tap
        for band in tl.static_range(4):
            f = c * 4 + band
            weight = tl.load(w_ptr + f * (K * K) + tap, mask=inside, other=0.0)
            scale = fw_widen(tl.load(scale_ptr + f), tl.float32) * 0.25
            sign = fw_wt_sign(band, p ^ s, q ^ (d % 2))
            total += fw_widen(weight, tl.float32) * (scale * sign)
    largest = tl.minimum(tl.maximum(tl.max(tl.abs(total), 0), 1e-30), 1e30)
    power = largest.to(tl.int32, bitcast=True) & 0x7F800000
    tl.store(factor_ptr + c, power.to(tl.float32, bitcast=True))
    inverse = (0x7F000000 - power).to(tl.float32, bitcast=True)
    at = out_ptr + c * (16 * K * K) + e
    tl.store(at, fw_narrow(total * inverse, out_ptr.dtype.element_ty), mask=inside)
