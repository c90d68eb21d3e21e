"""Blocks of 2 x 2 pixels as the walking kernels read them, and their transform."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_narrow, fw_widen

# Sizes and strides are not compiled into the kernels, so that other images take the same; only
# whether channels or pixels are neighbours in memory is.
wt_jit = triton.jit(
    do_not_specialize=[
        *("N", "C", "H", "W", "rows", "steps", "units", "chunks", "shares"),
        *("xn", "xh", "yn", "yh", "gn", "gh"),
    ],
    do_not_specialize_on_alignment=["xc", "xw", "yc", "yw", "gc", "gw"],
)


@triton.jit
def fw_wt_origin(ptr, n, c, j, sn, sc, sw, PAIRS: tl.constexpr):
    """Where the first block of a column stands; that pairs are aligned must be seen here."""
    if PAIRS:
        return ptr + 2 * (n * (sn // 2) + c * (sc // 2) + j)
    return ptr + n * sn + c * sc + 2 * j * sw


@triton.jit
def fw_wt_columns(
    ptr, i, dj: tl.constexpr, j, H, W, sh, sw,
    DIMS: tl.constexpr, EVEN: tl.constexpr, PAIRS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The block in row i of the image and dj columns beside j, ptr standing at (0, j).

    Zero where there is no such column: j may be far outside.
    """
    column = (j + dj).to(tl.uint32, bitcast=True)  # what is left of the image is large
    at = ptr + 2 * i * sh + 2 * dj * sw
    left = column < tl.cdiv(W, 2)
    right = left if EVEN else column < W // 2
    a, b = fw_wt_pair(at, sw, left, right, PAIRS, ACC)
    if DIMS == 1:
        return a, b, a, b
    if not EVEN:
        left &= 2 * i + 1 < H
        right &= 2 * i + 1 < H
    c, d = fw_wt_pair(at + sh, sw, left, right, PAIRS, ACC)
    return a, b, c, d


@triton.jit
def fw_wt_pair(at, sw, left, right, PAIRS: tl.constexpr, ACC: tl.constexpr):
    if PAIRS:
        both = tl.load(at[:, :, None] + tl.arange(0, 2), mask=left[:, :, None], other=0.0)
        return tl.split(fw_widen(both, ACC))
    a = fw_widen(tl.load(at, mask=left, other=0.0), ACC)
    return a, fw_widen(tl.load(at + sw, mask=right, other=0.0), ACC)


@triton.jit
def fw_wt_store(at, even, odd, j, W, sw, PAIRS: tl.constexpr):
    """A row of blocks, where j is a column of theirs."""
    DTYPE: tl.constexpr = at.dtype.element_ty
    if PAIRS:
        both = fw_narrow(tl.join(even, odd), DTYPE)
        tl.store(at[:, :, None] + tl.arange(0, 2), both, mask=(j >= 0)[:, :, None])
    else:
        tl.store(at, fw_narrow(even, DTYPE), mask=j >= 0)
        tl.store(at + sw, fw_narrow(odd, DTYPE), mask=(j >= 0) & (2 * j + 1 < W))


@triton.jit
def fw_wt_butterfly(a, b, c, d, DIMS: tl.constexpr):
    """The Haar transform of blocks but for its factor, which `fw_wt_norm` gives."""
    if DIMS == 1:
        return a + b, a - b, a, b
    top, bottom = a + b, c + d
    top_d, bottom_d = a - b, c - d
    return top + bottom, top - bottom, top_d + bottom_d, top_d - bottom_d
