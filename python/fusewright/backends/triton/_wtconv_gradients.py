"""The calls for the gradients of the filters and scales of the wavelet convolutions."""

from __future__ import annotations

import triton
from torch import Tensor

from fusewright.backends.triton._launch import kernel, none_like, power_of_2, processors
from fusewright.backends.triton._math import accumulator, is_double
from fusewright.backends.triton._reduce import as_gradient
from fusewright.backends.triton._wtconv_shapes import halves, sizes, strides, walking_blocks, whole
from fusewright.backends.triton._wtconv_weights import fw_wt_correlate, fw_wt_finish

# How many sums a thread holds in registers.
_SUMS = 100


def filter_gradients(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    phases: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a level's filters or, with as many filters as channels, of the base's.

    Args:
        bits: asks for those of the weight, of the bias and of the scale.
        phases: shares of the gradients of the phases' weights, where they are known.
    """
    partial = _correlate(x, grad, weight) if phases is None else phases
    size, channels = weight.shape[-1], x.shape[1]
    count = weight[0].numel()
    taps = power_of_2(count)
    shares = partial.shape[0]
    like = (weight, bias, scale)
    found = [
        t.new_empty(t.shape) if bits >> i & 1 and t is not None else None
        for i, t in enumerate(like)
    ]
    kernel(fw_wt_finish)[(weight.shape[0],)](
        partial,
        weight.contiguous(),
        scale.contiguous(),
        None if bias is None else bias.contiguous(),
        found[0],
        found[2],
        found[1],
        shares,
        channels,
        BANDS=weight.shape[0] // channels,
        TAPS=count,
        K=size,
        PHASES=phases is not None,
        DOUBLE=is_double(x),
        BLOCK_S=max(1, min(512 // taps, power_of_2(shares))),
        BLOCK_T=taps,
        num_warps=1,
    )
    first, second, third = (
        none_like(x) if f is None or t is None else as_gradient(f, t)
        for f, t in zip(found, like, strict=True)
    )
    return first, second, third


def _correlate(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Shares of the sums of products for all taps and, behind them, of the sum of `grad`."""
    dims, channels, size = x.dim() - 2, x.shape[1], weight.shape[-1]
    is_base = weight.shape[0] == channels
    rows = size if dims == 2 else 1
    bands = 1 if is_base else 2**dims
    extent = list(x.shape[2:]) if is_base else halves(x)
    height = extent[0] if dims == 2 else 1
    tap_rows = rows if bands * rows * size <= _SUMS else 1
    block = walking_blocks(x, [x.shape[0], extent[-1]])
    tiles = triton.cdiv(x.shape[0] * extent[-1], block["BLOCK_P"])
    groups = triton.cdiv(channels, block["BLOCK_C"]) * (rows // tap_rows)
    filling = triton.cdiv(4 * processors(x), groups)
    chunks = max(1, min(height // (2 * size), triton.cdiv(filling, tiles)))
    chunk = triton.cdiv(height, chunks)
    chunks = triton.cdiv(height, chunk)
    steps = triton.cdiv(tiles * chunks, filling)
    shares = triton.cdiv(tiles * chunks, steps)
    sums = bands * rows * size + 1
    partial = x.new_empty((shares, channels, sums), dtype=accumulator(x))
    kernel(fw_wt_correlate)[(shares * groups,)](
        x,
        grad,
        partial,
        x.shape[0],
        *sizes(x),
        steps,
        tiles * chunks,
        chunks,
        chunk,
        *strides(x),
        *strides(grad),
        DIMS=dims,
        HAAR=not is_base,
        K=size,
        PAD=(size - 1) // 2,
        TAP_ROWS=tap_rows,
        DOUBLE=is_double(x),
        **whole(x, grad),
        **block,
        num_warps=4,
    )
    return partial
