"""The Haar transform and its inverse, over one or two dimensions of tensors of any strides."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2
from fusewright.backends.triton._math import fw_narrow, fw_widen, is_double


@triton.jit
def fw_haar(
    x_ptr, y_ptr, C, H, W, xn, xc, xh, xw, yn, yc, yh, yw,
    DIMS: tl.constexpr, INVERSE: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """x is an image of H x W, y its bands; inverse reads y and writes x."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    BANDS: tl.constexpr = 4 if DIMS == 2 else 2
    tiles_w = tl.cdiv(tl.cdiv(W, 2), BLOCK_W)
    half_h = tl.cdiv(H, 2) if DIMS == 2 else 1
    tiles_h = tl.cdiv(half_h, BLOCK_H)
    pid = tl.program_id(0).to(tl.int64)
    plane = pid // (tiles_w * tiles_h)
    i = pid // tiles_w % tiles_h * BLOCK_H + tl.arange(0, BLOCK_H)
    j = pid % tiles_w * BLOCK_W + tl.arange(0, BLOCK_W)
    x_ptr += plane // C * xn + plane % C * xc
    y_ptr += plane // C * yn + plane % C * (yc * BANDS)
    i, j = i[:, None], j[None, :]
    even = x_ptr + 2 * i * xh + 2 * j * xw
    in_w = 2 * j + 1 < W
    m00 = (2 * i < H) & (2 * j < W)
    m01 = (2 * i < H) & in_w
    m10 = (2 * i + 1 < H) & (2 * j < W)
    m11 = (2 * i + 1 < H) & in_w
    at = y_ptr + i * yh + j * yw
    inside = (i < half_h) & (2 * j < W)
    if DIMS == 1:
        scale: tl.constexpr = 0.70710678118654752440
        if INVERSE:
            low = fw_widen(tl.load(at, mask=inside, other=0.0), ACC)
            high = fw_widen(tl.load(at + yc, mask=inside, other=0.0), ACC)
            tl.store(even, fw_narrow((low + high) * scale, x_ptr.dtype.element_ty), mask=m00)
            tl.store(even + xw, fw_narrow((low - high) * scale, x_ptr.dtype.element_ty), mask=m01)
        else:
            a = fw_widen(tl.load(even, mask=m00, other=0.0), ACC)
            b = fw_widen(tl.load(even + xw, mask=m01, other=0.0), ACC)
            tl.store(at, fw_narrow((a + b) * scale, y_ptr.dtype.element_ty), mask=inside)
            tl.store(at + yc, fw_narrow((a - b) * scale, y_ptr.dtype.element_ty), mask=inside)
    elif INVERSE:
        ll = fw_widen(tl.load(at, mask=inside, other=0.0), ACC)
        lh = fw_widen(tl.load(at + yc, mask=inside, other=0.0), ACC)
        hl = fw_widen(tl.load(at + 2 * yc, mask=inside, other=0.0), ACC)
        hh = fw_widen(tl.load(at + 3 * yc, mask=inside, other=0.0), ACC)
        top, bottom = 0.5 * (ll + lh), 0.5 * (ll - lh)
        top_d, bottom_d = 0.5 * (hl + hh), 0.5 * (hl - hh)
        tl.store(even, fw_narrow(top + top_d, x_ptr.dtype.element_ty), mask=m00)
        tl.store(even + xw, fw_narrow(top - top_d, x_ptr.dtype.element_ty), mask=m01)
        tl.store(even + xh, fw_narrow(bottom + bottom_d, x_ptr.dtype.element_ty), mask=m10)
        tl.store(even + xh + xw, fw_narrow(bottom - bottom_d, x_ptr.dtype.element_ty), mask=m11)
    else:
        a = fw_widen(tl.load(even, mask=m00, other=0.0), ACC)
        b = fw_widen(tl.load(even + xw, mask=m01, other=0.0), ACC)
        c = fw_widen(tl.load(even + xh, mask=m10, other=0.0), ACC)
        d = fw_widen(tl.load(even + xh + xw, mask=m11, other=0.0), ACC)
        top, bottom = 0.5 * (a + b), 0.5 * (c + d)
        top_d, bottom_d = 0.5 * (a - b), 0.5 * (c - d)
        tl.store(at, fw_narrow(top + bottom, y_ptr.dtype.element_ty), mask=inside)
        tl.store(at + yc, fw_narrow(top - bottom, y_ptr.dtype.element_ty), mask=inside)
        tl.store(at + 2 * yc, fw_narrow(top_d + bottom_d, y_ptr.dtype.element_ty), mask=inside)
        tl.store(at + 3 * yc, fw_narrow(top_d - bottom_d, y_ptr.dtype.element_ty), mask=inside)


def transform(image: Tensor, bands: Tensor, inverse: bool) -> None:
    """Fill `bands`, (N, 2^d C, ...), from `image`, (N, C, ...); inverse the other way."""
    if image.numel() == 0:
        return
    dims = image.dim() - 2
    height, width = (1, *image.shape[2:])[-2:]
    tile_w = min(power_of_2(triton.cdiv(width, 2)), 512 if dims == 1 else 64)
    tile_h = 1 if dims == 1 else min(power_of_2(triton.cdiv(height, 2)), max(1, 512 // tile_w))
    planes = image.shape[0] * image.shape[1]
    half_h = 1 if dims == 1 else triton.cdiv(height, 2)
    programs = planes * triton.cdiv(half_h, tile_h) * triton.cdiv(triton.cdiv(width, 2), tile_w)
    kernel(fw_haar)[(programs,)](
        image,
        bands,
        image.shape[1],
        height,
        width,
        *_strides(image),
        *_strides(bands),
        DIMS=dims,
        INVERSE=inverse,
        DOUBLE=is_double(image),
        BLOCK_H=tile_h,
        BLOCK_W=tile_w,
        num_warps=4,
    )


def _strides(t: Tensor) -> Sequence[int]:
    return t.stride() if t.dim() == 4 else (t.stride(0), t.stride(1), 0, t.stride(2))
