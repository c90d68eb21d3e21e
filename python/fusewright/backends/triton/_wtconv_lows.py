"""The low bands of several levels in one kernel, for planes that a program holds in registers."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2
from fusewright.backends.triton._math import accumulator, fw_widen
from fusewright.backends.triton._wtconv_blocks import wt_jit
from fusewright.backends.triton._wtconv_shapes import product, vector

# The most pixels of a program.
_PIXELS = 4096
# Where bands begin in their memory, in elements: at addresses that every load can take.
_ALIGNED = 32


@wt_jit
def fw_wt_lows(
    x_ptr, low_ptr, N, C, H, W, xn, xc, xh,
    LEVELS: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, PLANES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """All low bands of `PLANES` planes, level by level behind one another."""
    count = tl.cast(N, tl.int64) * C
    plane = tl.program_id(0).to(tl.int64) * PLANES + tl.arange(0, PLANES)[:, None, None]
    n, c = plane // C, plane % C
    i = tl.arange(0, ROWS // 2)[None, :, None]
    j = tl.arange(0, COLUMNS)[None, None, :]
    xh = xh // VECTOR * VECTOR  # seen to be a multiple, as all steps
    at = x_ptr + VECTOR * (n * (xn // VECTOR) + c * (xc // VECTOR)) + 2 * i * xh + j
    inside = (plane < count) & (j < W // VECTOR * VECTOR)
    pair = fw_widen(tl.load(at, mask=inside & (2 * i < H), other=0.0), tl.float32)
    pair += fw_widen(tl.load(at + xh, mask=inside & (2 * i + 1 < H), other=0.0), tl.float32)
    low = tl.sum(tl.reshape(pair, (PLANES, ROWS // 2, COLUMNS // 2, 2)), 3) * 0.5
    h, w = tl.cdiv(H, 2), tl.cdiv(W, 2)
    for level in tl.static_range(LEVELS):
        if level > 0:
            blocks = tl.reshape(low, (PLANES, ROWS >> level + 1, 2, COLUMNS >> level + 1, 2))
            low = tl.sum(tl.sum(blocks, 4), 2) * 0.5
            low_ptr += tl.cdiv(count * h * w, ALIGNED) * ALIGNED
            h, w = tl.cdiv(h, 2), tl.cdiv(w, 2)
        i = tl.arange(0, ROWS >> level + 1)[None, :, None]
        j = tl.arange(0, COLUMNS >> level + 1)[None, None, :]
        inside = (plane < count) & (i < h) & (j < w)
        tl.store(low_ptr + (plane * h + i) * w + j, low, mask=inside)


def _block(x: Tensor, levels: int) -> tuple[int, int]:
    rows, columns = (max(power_of_2(size), 2**levels) for size in x.shape[2:])
    return rows, columns


def fits(x: Tensor, levels: int) -> bool:
    return levels > 0 and product(_block(x, levels)) <= _PIXELS


def lows(x: Tensor, levels: int) -> list[Tensor]:
    """The low bands of so many levels."""
    n, c, height, width = x.shape
    rows, columns = _block(x, levels)
    sizes = [(-(-height >> k), -(-width >> k)) for k in range(1, levels + 1)]
    steps = [triton.cdiv(n * c * h * w, _ALIGNED) * _ALIGNED for h, w in sizes]
    memory = x.new_empty((sum(steps),), dtype=accumulator(x))
    planes = min(_PIXELS // (rows * columns), power_of_2(n * c))
    kernel(fw_wt_lows)[(triton.cdiv(n * c, planes),)](
        x, memory, n, c, height, width, *x.stride()[:3],
        LEVELS=levels, ALIGNED=_ALIGNED, VECTOR=vector(x), PLANES=planes, ROWS=rows,
        COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    parts = memory.split(steps)
    return [
        part[: n * c * h * w].view(n, c, h, w) for part, (h, w) in zip(parts, sizes, strict=True)
    ]
