"""The product of `_matmul.py` for 16-bit matrices on GPUs with a tensor memory accelerator.

Whole tiles are fetched by descriptors, which spares the threads all addresses, and a program goes
on from one tile to the next, so that the next one's operands arrive while this one is finished.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import (
    UNTUNED,
    autotune,
    is_tracing,
    launch_tuned,
    power_of_2,
    processors,
)
from fusewright.backends.triton._math import fw_activate_16, fw_dot, fw_narrow, fw_widen

# Of rows; below, a tile would be mostly empty.
_FEWEST_ROWS = 64


def _configs() -> list[dict[str, int]]:
    keys = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "PARTS", "num_warps", "num_stages")
    sizes = [
        (128, 256, 64, 1, 8, 3),
        (128, 256, 64, 2, 8, 4),
        (128, 128, 64, 1, 8, 4),
        (64, 64, 64, 2, 4, 4),
    ]
    return [dict(zip(keys, size, strict=True)) for size in sizes]


@triton.jit
def fw_finish(
    acc, y, pre, bias_ptr, m, n, N, ACTIVATION: tl.constexpr, KEEP: tl.constexpr,
    DTYPE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    if bias_ptr is not None:
        column = n + tl.arange(0, BLOCK_N)
        acc += fw_widen(tl.load(bias_ptr + column, mask=column < N, other=0.0), tl.float32)[None, :]
    if KEEP:
        pre.store([m, n], fw_narrow(acc, DTYPE))
    y.store([m, n], fw_narrow(fw_activate_16(acc, ACTIVATION), DTYPE))


def _worthwhile(configs: list[Any], arguments: dict[str, Any], **rest: Any) -> list[Any]:
    """The blocks of which there are enough to fill a GPU."""
    rows, columns = arguments["M"], arguments["N"]

    def fills(config: Any) -> bool:
        block = config.kwargs
        return bool(
            triton.cdiv(rows, block["BLOCK_M"]) * triton.cdiv(columns, block["BLOCK_N"]) >= 64
        )

    return [c for c in configs if fills(c)] or configs[-1:]


@autotune(_configs(), key=["BUCKET", "N", "K", "A_TURNED", "B_TURNED"], prune=_worthwhile)
@triton.jit
def fw_matmul_tma(
    a_ptr, b_ptr, bias_ptr, y_ptr, pre_ptr, M, N, K, a_stride, b_stride, y_stride, BUCKET,
    A_TURNED: tl.constexpr, B_TURNED: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """`y = act(a b + bias)`; a turned operand lies in memory with its rows for columns."""
    DTYPE: tl.constexpr = y_ptr.dtype.element_ty
    PART: tl.constexpr = BLOCK_N // PARTS
    KEEP: tl.constexpr = pre_ptr is not None
    GROUP: tl.constexpr = 8  # rows of tiles that share what they read of b in the cache
    if A_TURNED:
        a = tl.make_tensor_descriptor(a_ptr, [K, M], [a_stride, 1], [BLOCK_K, BLOCK_M])
    else:
        a = tl.make_tensor_descriptor(a_ptr, [M, K], [a_stride, 1], [BLOCK_M, BLOCK_K])
    if B_TURNED:
        b = tl.make_tensor_descriptor(b_ptr, [N, K], [b_stride, 1], [BLOCK_N, BLOCK_K])
    else:
        b = tl.make_tensor_descriptor(b_ptr, [K, N], [b_stride, 1], [BLOCK_K, BLOCK_N])
    y = tl.make_tensor_descriptor(y_ptr, [M, N], [y_stride, 1], [BLOCK_M, PART])
    pre = y
    if KEEP:
        pre = tl.make_tensor_descriptor(pre_ptr, [M, N], [y_stride, 1], [BLOCK_M, PART])
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        group = tile // (GROUP * tiles_n)
        height = min(tiles_m - group * GROUP, GROUP)
        m = (group * GROUP + tile % (GROUP * tiles_n) % height) * BLOCK_M
        n = (tile % (GROUP * tiles_n) // height) * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for step in range(steps):
            k = step * BLOCK_K
            left = a.load([k, m]).T if A_TURNED else a.load([m, k])
            right = b.load([n, k]).T if B_TURNED else b.load([k, n])
            acc = fw_dot(left, right, acc, "ieee")
        if PARTS == 1:
            fw_finish(acc, y, pre, bias_ptr, m, n, N, ACTIVATION, KEEP, DTYPE, PART)
        else:
            halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, PART)), (0, 2, 1))
            first, second = tl.split(halves)
            fw_finish(first, y, pre, bias_ptr, m, n, N, ACTIVATION, KEEP, DTYPE, PART)
            fw_finish(second, y, pre, bias_ptr, m, n + PART, N, ACTIVATION, KEEP, DTYPE, PART)


def suits(x: Tensor, *sizes: int) -> bool:
    """Whether the products of dense matrices of these sizes, of x's type, are for descriptors."""
    return (
        x.element_size() == 2
        and sizes[0] >= _FEWEST_ROWS
        and all(size % 8 == 0 for size in sizes[1:])
        and _has_accelerator(x)
    )


def serves(a: Tensor, b: Tensor, y: Tensor, pre: Tensor | None) -> bool:
    """Whether descriptors can hold these matrices, and the device has what reads them.

    A graph that is traced gets the other kernel: see `linear_act.stays_whole`.
    """
    tensors = [a, b, y] if pre is None else [a, b, y, pre]
    return (
        suits(a, a.shape[0])
        and b.dtype == a.dtype
        and not is_tracing()
        and all(_describable(t) for t in tensors)
        and y.stride(1) == 1
    )


def _has_accelerator(x: Tensor) -> bool:
    if x.device.type != "cuda":
        return True  # interpreted
    return torch.version.hip is None and torch.cuda.get_device_capability(x.device)[0] >= 9


def _describable(x: Tensor) -> bool:
    """Dense in one dimension, whole packs of 16 bytes from row to row in the other."""
    outer, inner = sorted(x.stride(), reverse=True)
    return (
        inner == 1
        and outer % 8 == 0
        and outer >= min(x.shape)
        and min(x.shape) > 1
        and x.data_ptr() % 16 == 0
    )


def _allocate(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device="cuda")


def matmul(
    a: Tensor, b: Tensor, y: Tensor, bias: Tensor | None, pre: Tensor | None, activation: int
) -> None:
    """Write `act(a b + bias)` to y, and the argument of act to pre, of y's strides."""
    (rows, inner), columns = a.shape, b.shape[1]
    a_turned, b_turned = a.stride(1) != 1, b.stride(1) != 1

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(rows, meta["BLOCK_M"]) * triton.cdiv(columns, meta["BLOCK_N"])
        return (min(tiles, processors(a)),)

    triton.set_allocator(_allocate)
    launch_tuned(
        fw_matmul_tma,
        grid,
        a.numel() + b.numel() + y.numel() <= UNTUNED,
        a,
        b,
        bias,
        y,
        pre,
        rows,
        columns,
        inner,
        a.stride(0) if not a_turned else a.stride(1),
        b.stride(0) if not b_turned else b.stride(1),
        y.stride(0),
        BUCKET=min(power_of_2(rows), 8192),
        A_TURNED=a_turned,
        B_TURNED=b_turned,
        ACTIVATION=activation,
    )
