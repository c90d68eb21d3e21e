"""The calls of the kernels that take the base and the first level to the matrix units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2, processors
from fusewright.backends.triton._wtconv_matrix import fw_wt_gram, fw_wt_product
from fusewright.backends.triton._wtconv_phases import fw_wt_phases
from fusewright.backends.triton._wtconv_shapes import is_last

# The margin of a window of columns, and so the largest filter: from the first column of a block
# on, a band's filter reaches K - 1 pixels to either side.
_MARGIN = 8

# How many programs a processor gets, where there are as many tiles: few enough that what each of
# them prepares serves many, enough to keep all processors busy to the end.
_PROGRAMS, _SHARES = 16, 6


class Strips(NamedTuple):
    """The columns written together, and those read for them from `left` of them on."""

    strip: int
    window: int
    left: int


def strips(image: Tensor) -> Strips:
    width = image.shape[-1]
    if width <= 16:
        whole = 8 if width <= 8 else 16
        return Strips(whole, whole, 0)
    return Strips(16, 16 + 2 * _MARGIN, _MARGIN)


def suits(size: int, *images: Tensor) -> bool:
    """Whether matrix units serve filters of this size on images of these strides.

    They take 16 bits, which pixels have and the bands of deeper levels don't. Columns of matrices
    are neighbours in memory, which with channels last are those of other channels.
    """
    first = images[0]
    return (
        first.dim() == 4
        and first.dtype in (torch.float16, torch.bfloat16)
        and size <= _MARGIN + 1
        and first.shape[0] * first.shape[2] < 2**31
        and not any(is_last(t) or (t.stride(3) != 1 and t.shape[3] > 1) for t in images)
    )


def _vector(image: Tensor) -> int:
    """How many pixels are loaded at once: rows must begin and end at multiples of it."""
    return math.gcd(8, image.shape[3], *image.stride()[:3])


def product(
    image: Tensor, deeper: Tensor | None, out: Tensor, parameters: Sequence[Tensor | None],
    size: int, pad: int, flip: bool,
) -> None:  # fmt: skip
    """`out` of the base's filter and the first level's, and of the deeper levels' part."""
    weight, scale, base_weight, base_bias, base_scale = parameters
    n, c, height, width = image.shape
    phases = image.new_empty((c, 16 * size * size))
    factor = image.new_empty((c,), dtype=torch.float32)
    kernel(fw_wt_phases)[(c,)](
        weight, scale, base_weight, base_scale, phases, factor,
        K=size, PAD=pad, FLIP=flip, BLOCK=power_of_2(16 * size * size), num_warps=4,
    )  # fmt: skip
    cut, block = strips(image), 64
    columns = c * triton.cdiv(width, cut.strip)
    tiles = triton.cdiv(n * triton.cdiv(height, 2), block)
    steps = max(1, tiles * columns // (_PROGRAMS * processors(image)))
    kernel(fw_wt_product)[(columns * triton.cdiv(tiles, steps),)](
        image, deeper, out, phases, factor, base_bias, base_scale, n, c, height, width, steps,
        *image.stride()[:3], *out.stride()[:3],
        K=size, PAD=pad, STRIP=cut.strip, WINDOW=cut.window, LEFT=cut.left,
        X_VECTOR=_vector(image), Y_VECTOR=_vector(out), BLOCK_M=block, STAGES=1, num_warps=4,
    )  # fmt: skip


def gram(x: Tensor, grad: Tensor, size: int) -> Tensor:
    """Shares of the gradients of the phases' weights and, behind them, of the sum of `grad`."""
    n, c, height, width = x.shape
    cut, block = strips(x), 32
    count = triton.cdiv(width, cut.strip)
    tiles = triton.cdiv(n * triton.cdiv(height, 2), block)
    steps = max(1, tiles * c * count // (_SHARES * processors(x)))
    shares = count * triton.cdiv(tiles, steps)
    partial = x.new_empty((shares, c, 16 * size * size + 1), dtype=torch.float32)
    kernel(fw_wt_gram)[(shares * c,)](
        x, grad, partial, n, c, height, width, steps, shares,
        *x.stride()[:3], *grad.stride()[:3],
        K=size, PAD=(size - 1) // 2, STRIP=cut.strip, WINDOW=cut.window, LEFT=cut.left,
        X_VECTOR=_vector(x), G_VECTOR=_vector(grad), BLOCK_M=block,
        BLOCK_D=power_of_2(2 * size), STAGES=1, num_warps=4,
    )  # fmt: skip
    return partial
