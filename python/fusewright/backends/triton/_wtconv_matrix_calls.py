"""The calls of the kernels that take the base and the first level to the matrix units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2, processors
from fusewright.backends.triton._wtconv_matrix import fw_wt_gram, fw_wt_product
from fusewright.backends.triton._wtconv_phases import fw_wt_phases
from fusewright.backends.triton._wtconv_shapes import is_last, vector

# The margin of a window of columns, and so the largest filter: from the first column of a block
# on, a band's filter reaches K - 1 pixels to either side.
_MARGIN = 8

# The largest filter for which the rows of a tile, or the matrices of a wide strip, lie beside each
# other in the shared memory of any GPU.
_SMALL = 5


class Plan(NamedTuple):
    """How a program reads an image.

    Attributes:
        strip: the columns that it serves.
        window: the columns that it reads for them, of which `left` are on their left.
        left: see there.
        block: the pairs of rows of a tile.
        warps: of a program.
        stages: of the pipeline of loads; 1 is none, 0 loads what a product needs just before it,
            which leaves more of a multiprocessor's memory to the cache.
        programs: for a processor, where there are as many tiles: few enough that what each of them
            prepares serves many, enough to keep all processors busy to the end.
    """

    strip: int
    window: int
    left: int
    block: int
    warps: int
    stages: int
    programs: int


# Measured on an H200, of at most that many columns.
_PRODUCT = {
    8: Plan(8, 8, 0, 64, 4, 1, 8),
    16: Plan(16, 16, 0, 64, 2, 1, 8),
    32: Plan(32, 32, 0, 128, 4, 0, 8),
    64: Plan(16, 32, _MARGIN, 64, 4, 1, 8),
}
_PRODUCT_WIDE = Plan(16, 32, _MARGIN, 64, 4, 0, 24)
_GRAM = {
    8: Plan(8, 8, 0, 32, 4, 1, 8),
    16: Plan(16, 16, 0, 16, 4, 3, 8),
    64: Plan(16, 32, _MARGIN, 16, 4, 3, 8),
}
_GRAM_WIDE = Plan(16, 32, _MARGIN, 32, 4, 3, 24)


def _plan(plans: dict[int, Plan], wide: Plan, size: int, width: int) -> Plan:
    if size > _SMALL and width > 16:
        return wide
    return next((plan for limit, plan in plans.items() if width <= limit), wide)


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
    plan = _plan(_PRODUCT, _PRODUCT_WIDE, size, width)
    columns = c * triton.cdiv(width, plan.strip)
    tiles = triton.cdiv(n * triton.cdiv(height, 2), plan.block)
    steps = max(1, tiles * columns // (plan.programs * processors(image)))
    kernel(fw_wt_product)[(columns * triton.cdiv(tiles, steps),)](
        image, deeper, out, phases, factor, base_bias, base_scale, n, c, height, width, steps,
        *image.stride()[:3], *out.stride()[:3],
        K=size, PAD=pad, STRIP=plan.strip, WINDOW=plan.window, LEFT=plan.left,
        X_VECTOR=vector(image), Y_VECTOR=vector(out), BLOCK_M=plan.block, AHEAD=plan.stages > 0,
        num_warps=plan.warps,
    )  # fmt: skip


def gram(x: Tensor, grad: Tensor, size: int) -> Tensor:
    """Shares of the gradients of the phases' weights and, behind them, of the sum of `grad`."""
    n, c, height, width = x.shape
    plan = _plan(_GRAM, _GRAM_WIDE, size, width)
    # windows of wide images begin where sectors of memory do, if rows do
    sectors = plan is _GRAM_WIDE and all(vector(t, 16) == 16 for t in (x, grad))
    origin = plan.left if sectors else 0
    count = triton.cdiv(width + origin, plan.strip)
    tiles = triton.cdiv(n * triton.cdiv(height, 2), plan.block)
    steps = max(1, tiles * c * count // (plan.programs * processors(x)))
    shares = count * triton.cdiv(tiles, steps)
    partial = x.new_empty((shares, c, 16 * size * size + 1), dtype=torch.float32)
    kernel(fw_wt_gram)[(shares * c,)](
        x, grad, partial, n, c, height, width, steps, shares,
        *x.stride()[:3], *grad.stride()[:3],
        K=size, PAD=(size - 1) // 2, STRIP=plan.strip, WINDOW=plan.window, LEFT=plan.left,
        ORIGIN=origin, X_VECTOR=vector(x), G_VECTOR=vector(grad), BLOCK_M=plan.block,
        BLOCK_D=power_of_2(2 * size), STAGES=plan.stages, num_warps=plan.warps,
    )  # fmt: skip
    return partial
