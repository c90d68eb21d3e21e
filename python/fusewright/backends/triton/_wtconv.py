"""wtconv1d and wtconv2d: the calls of the kernels.

The low bands come first, from fine to coarse; then one kernel a level, from coarse to fine, each
adding to what the deeper ones found. The finest also computes the base convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._launch import kernel, none_like, processors
from fusewright.backends.triton._math import accumulator, is_double
from fusewright.backends.triton._wtconv_gradients import filter_gradients
from fusewright.backends.triton._wtconv_kernels import fw_wt_level, fw_wt_low
from fusewright.backends.triton._wtconv_large import fw_wt_large
from fusewright.backends.triton._wtconv_lows import fits, lows
from fusewright.backends.triton._wtconv_matrix_calls import gram, product, suits
from fusewright.backends.triton._wtconv_shapes import (
    blocks,
    dense,
    halves,
    is_last,
    programs,
    sizes,
    strides,
    walking_blocks,
    whole,
)

# The largest filters that are unrolled, less with channels last, where every thread has weights of
# its own; and how many weights or sums a thread holds in registers.
_UNROLLED, _UNROLLED_LAST, _HELD = 7, 5, 125


def forward(
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
) -> Tensor:
    y = torch.empty_like(x)
    if x.numel() > 0:
        images = _low_bands(x, len(weights))
        _apply(images, y, base_weight, base_bias, base_scale, weights, scales, flip=False)
    return y


def backward(
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The transform is orthonormal: the gradient of x is the operator with flipped filters."""
    levels = len(weights)
    base = (base_weight, base_bias, base_scale)
    wanted = [needs >> bit & 1 and t is not None for bit, t in enumerate((x, *base))]
    none: list[Tensor] = [none_like(x) for _ in weights]
    if x.numel() == 0:
        zeros = [
            torch.zeros_like(t) if w and t is not None else none_like(x)
            for w, t in zip(wanted, (x, *base), strict=True)
        ]
        return (
            zeros[0],
            zeros[1],
            zeros[2],
            zeros[3],
            [torch.zeros_like(t) for t in weights] if needs & 16 else none,
            [torch.zeros_like(t) for t in scales] if needs & 32 else none,
        )
    grads = _low_bands(grad_y, levels)
    grad_x = none_like(x)
    if wanted[0]:
        grad_x = torch.empty_like(x)
        _apply(grads, grad_x, base_weight, None, base_scale, weights, scales, flip=True)
    size = base_weight.shape[-1]
    shares = gram(x, grad_y, size) if needs & 62 and suits(size, x, grad_y) else None
    of_base = (none_like(x), none_like(x), none_like(x))
    if needs & 14:
        of_base = filter_gradients(
            x, grad_y, base_weight, base_scale, base_bias, needs >> 1, shares
        )
    of_weights, of_scales = none, list(none)
    if needs & 48:
        images = _low_bands(x, levels)
        bits = (needs >> 4 & 1) | (needs >> 3 & 4)
        found = [
            filter_gradients(image, grad, weight, scale, None, bits, None if level else shares)
            for level, (image, grad, weight, scale) in enumerate(
                zip(images[:levels], grads[:levels], weights, scales, strict=True)
            )
        ]
        of_weights, of_scales = [f[0] for f in found], [f[2] for f in found]
    return grad_x, *of_base, of_weights, of_scales


def _low_bands(x: Tensor, levels: int) -> list[Tensor]:
    """x and the low bands that levels filter: all but the deepest."""
    if suits(1, x) and fits(x, levels - 1):
        return [x, *lows(x, levels - 1)]
    images = [x]
    for _ in range(levels - 1):
        image = images[-1]
        low = dense(image, halves(image), accumulator(x))
        block = blocks(image, low.shape[2:])
        kernel(fw_wt_low)[(programs(low, low.shape[2:], block),)](
            image,
            low,
            *sizes(image),
            *strides(image),
            DIMS=x.dim() - 2,
            DOUBLE=is_double(x),
            LAST=is_last(image),
            **whole(image),
            **block,
            num_warps=4,
        )
        images.append(low)
    return images


def _apply(
    images: Sequence[Tensor],
    y: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    flip: bool,
) -> None:
    """Write to y the operator on images[0], whose low bands follow."""
    x, size = images[0], base_weight.shape[-1]
    pad = (size - 1) // 2
    deeper: Tensor | None = None
    for level in reversed(range(max(len(weights), 1))):
        image = images[level]
        out = y if level == 0 else dense(image, image.shape[2:], accumulator(x))
        has_bands = level < len(weights)
        parameters: list[Any] = [None] * 5
        if has_bands:
            parameters[:2] = weights[level].contiguous(), scales[level].contiguous()
        if level == 0:
            parameters[2:] = (
                base_weight.contiguous(),
                None if base_bias is None else base_bias.contiguous(),
                base_scale.contiguous(),
            )
        at = size - 1 - pad if flip else pad
        run = product if level == 0 and suits(size, image, out) else _level
        run(image, deeper, out, parameters, size, at, flip)
        deeper = out


def _level(
    image: Tensor,
    deeper: Tensor | None,
    out: Tensor,
    parameters: Sequence[Tensor | None],
    size: int,
    pad: int,
    flip: bool,
) -> None:
    """One level, by columns unless unrolling its filters takes long and gains nothing."""
    dims = image.dim() - 2
    half = halves(image)
    options = {
        "DIMS": dims,
        "K": size,
        "PAD": pad,
        "FLIP": flip,
        "DOUBLE": is_double(image),
        "LAST": is_last(image),
        "num_warps": 4,
    }
    places = (*strides(image), *strides(out))
    if size > (_UNROLLED_LAST if is_last(image) else _UNROLLED):
        block = blocks(image, half)
        kernel(fw_wt_large)[(programs(image, half, block),)](
            image, deeper, out, *parameters, *sizes(image), *places, **options, **block
        )
        return
    height = half[0] if dims == 2 else 1
    block = walking_blocks(image, [image.shape[0], half[-1]])
    tiles = triton.cdiv(image.shape[0] * half[-1], block["BLOCK_P"])
    columns = tiles * triton.cdiv(image.shape[1], block["BLOCK_C"])
    # a walk of fewer rows reads more above and below of what it computes
    chunks = max(1, min(height // (2 * size), 8 * processors(image) // columns))
    rows = triton.cdiv(height, chunks)
    taps = size**dims * (2 * dims + 1)
    kernel(fw_wt_level)[(columns * triton.cdiv(height, rows),)](
        image,
        deeper,
        out,
        *parameters,
        image.shape[0],
        *sizes(image),
        rows,
        *places,
        **options,
        HOLD=taps <= _HELD,
        **whole(image, out),
        **block,
    )
