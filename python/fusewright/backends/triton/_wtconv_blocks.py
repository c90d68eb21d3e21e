"""Blocks of 2 x 2 pixels as the walking kernels read them, and their transform."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_widen


@triton.jit
def fw_wt_columns(
    ptr, i, dj: tl.constexpr, j, inside, H, W, sh, sw, DIMS: tl.constexpr, ACC: tl.constexpr
):
    """The block of `fw_wt_block` in row i and dj columns beside j, ptr standing at (0, j)."""
    at = ptr + 2 * i * sh + 2 * dj * sw
    left = inside & (j + dj >= 0) & (2 * (j + dj) < W)
    right = inside & (j + dj >= 0) & (2 * (j + dj) + 1 < W)
    top = (i >= 0) & (2 * i < H)
    a = fw_widen(tl.load(at, mask=left & top, other=0.0), ACC)
    b = fw_widen(tl.load(at + sw, mask=right & top, other=0.0), ACC)
    if DIMS == 1:
        return a, b, a, b
    low = (i >= 0) & (2 * i + 1 < H)
    c = fw_widen(tl.load(at + sh, mask=left & low, other=0.0), ACC)
    d = fw_widen(tl.load(at + sh + sw, mask=right & low, other=0.0), ACC)
    return a, b, c, d


@triton.jit
def fw_wt_butterfly(a, b, c, d, DIMS: tl.constexpr):
    """The Haar transform of blocks but for its factor, which `fw_wt_norm` gives."""
    if DIMS == 1:
        return a + b, a - b, a, b
    top, bottom = a + b, c + d
    top_d, bottom_d = a - b, c - d
    return top + bottom, top - bottom, top_d + bottom_d, top_d - bottom_d
