"""Tiles of rows as the kernels of layer_norm and rms_norm load, add and scale them."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_column_offset, fw_narrow, fw_row_offset, fw_widen


@triton.constexpr_function
def fw_norm_exact(x_ptr):
    """Whether what a mean lost to rounding counts: 16-bit rows are not exact to that degree."""
    return x_ptr.dtype.element_ty.primitive_bitwidth > 16


@triton.jit
def fw_norm_add(a, b, c, d):
    return a + c, b + d


@triton.jit
def fw_norm_load(ptr, rows, columns, mask, l1, l2, n1, s0, s1, s2, t0, t1, ACC: tl.constexpr):
    """A tile of a tensor of any strides, zero outside."""
    row = fw_row_offset(rows, l1, l2, s0, s1, s2)
    at = row[:, None] + fw_column_offset(columns, n1, t0, t1)[None, :]
    return fw_widen(tl.load(ptr + at, mask=mask, other=0.0), ACC)


@triton.jit
def fw_norm_sum(
    x_ptr, r_ptr, rows, columns, mask, l1, l2, n1,
    x0, x1, x2, xt0, xt1, r0, r1, r2, rt0, rt1, ACC: tl.constexpr,
):  # fmt: skip
    """A tile of what is normalised: x, or its sum with the residual, rounded."""
    h = fw_norm_load(x_ptr, rows, columns, mask, l1, l2, n1, x0, x1, x2, xt0, xt1, ACC)
    if r_ptr is not None:
        h += fw_norm_load(r_ptr, rows, columns, mask, l1, l2, n1, r0, r1, r2, rt0, rt1, ACC)
        h = fw_widen(fw_narrow(h, r_ptr.dtype.element_ty), ACC)
    return h


@triton.jit
def fw_norm_parameter(ptr, columns, n, OTHER: tl.constexpr, ACC: tl.constexpr):
    """A piece of the weight or the bias, as a row."""
    return fw_widen(tl.load(ptr + columns, mask=columns < n, other=OTHER), ACC)[None, :]


@triton.jit
def fw_norm_affine(v, w_ptr, b_ptr, columns, n, OFFSET: tl.constexpr, ACC: tl.constexpr):
    """The normalised tile times the weight plus the bias."""
    if w_ptr is not None:
        v *= fw_norm_parameter(w_ptr, columns, n, 0.0, ACC) + OFFSET
    if b_ptr is not None:
        v += fw_norm_parameter(b_ptr, columns, n, 0.0, ACC)
    return v
