"""Matrix product with bias and activation in its epilogue, for matrices of any strides."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton import _matmul_tma as tma
from fusewright.backends.triton._launch import UNTUNED, autotune, launch_tuned, power_of_2
from fusewright.backends.triton._math import fw_activate, fw_dot, fw_narrow, fw_widen, is_double


def _configs() -> list[dict[str, int]]:
    keys = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    sizes = [
        (128, 256, 64, 8, 3),
        (128, 256, 64, 8, 4),
        (256, 128, 64, 8, 3),
        (128, 128, 64, 4, 4),
        (128, 128, 64, 8, 4),
        (64, 256, 64, 4, 4),
        (64, 128, 64, 4, 4),
        (128, 64, 64, 4, 4),
        (64, 64, 64, 4, 5),
        (16, 32, 256, 4, 4),
        (16, 64, 128, 4, 5),
        (32, 64, 128, 4, 4),
        (128, 128, 32, 8, 3),
        (64, 128, 32, 4, 3),
        (64, 64, 32, 4, 3),
        (16, 64, 32, 4, 4),
        (32, 32, 32, 4, 2),
    ]
    return [dict(zip(keys, size, strict=True)) for size in sizes]


def _worthwhile(configs: list[Any], arguments: dict[str, Any], **rest: Any) -> list[Any]:
    """The few blocks that suit the element size and do not reach far beyond the matrix."""
    given = {**arguments, **rest}
    size = given["a_ptr"].element_size()
    rows = max(16, power_of_2(given["M"]))
    columns = max(32, power_of_2(given["N"]))

    def fits(config: Any) -> bool:
        block = config.kwargs
        if size == 8:
            return block["BLOCK_M"] * block["BLOCK_N"] <= 1024 and block["BLOCK_K"] == 32
        deep = block["BLOCK_K"] > 32
        small = block["BLOCK_M"] < 64
        return (
            deep == (size == 2)
            and block["BLOCK_M"] <= rows
            and block["BLOCK_N"] <= columns
            and small == (rows < 64)
        )

    return [c for c in configs if fits(c)] or configs[-1:]


@autotune(_configs(), key=["BUCKET", "N", "K", "A_COLUMNS", "B_COLUMNS"], prune=_worthwhile)
@triton.jit
def fw_matmul(
    a_ptr, b_ptr, bias_ptr, y_ptr, pre_ptr, M, N, K, am, ak, bk, bn, ym, yn,
    BUCKET: tl.constexpr, A_COLUMNS: tl.constexpr, B_COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, EVEN: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`y = act(a b + bias)`, and the argument of act; blocks near one another share the cache."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    GROUP: tl.constexpr = 8
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    group = pid // (GROUP * tiles_n)
    height = min(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + pid % (GROUP * tiles_n) % height
    tile_n = pid % (GROUP * tiles_n) // height
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # rows past the end are read from within and never stored
    rows = tl.max_contiguous(tl.multiple_of(tl.where(m < M, m, 0), BLOCK_M), BLOCK_M)
    columns = tl.max_contiguous(tl.multiple_of(tl.where(n < N, n, 0), BLOCK_N), BLOCK_N)
    a_at = a_ptr + rows.to(tl.int64)[:, None] * am + k.to(tl.int64)[None, :] * ak
    b_at = b_ptr + k.to(tl.int64)[:, None] * bk + columns.to(tl.int64)[None, :] * bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    a_step = tl.cast(ak, tl.int64) * BLOCK_K
    b_step = tl.cast(bk, tl.int64) * BLOCK_K
    for start in range(0, K, BLOCK_K):
        if EVEN:
            a = tl.load(a_at)
            b = tl.load(b_at)
        else:
            a = tl.load(a_at, mask=(k < K - start)[None, :], other=0.0)
            b = tl.load(b_at, mask=(k < K - start)[:, None], other=0.0)
        acc = fw_dot(a, b, acc, PRECISION)
        a_at += a_step
        b_at += b_step
    if bias_ptr is not None:
        acc += fw_widen(tl.load(bias_ptr + n, mask=n < N, other=0.0), ACC)[None, :]
    mask = (m < M)[:, None] & (n < N)[None, :]
    at = m.to(tl.int64)[:, None] * ym + n.to(tl.int64)[None, :] * yn
    if pre_ptr is not None:
        tl.store(pre_ptr + at, fw_narrow(acc, pre_ptr.dtype.element_ty), mask=mask)
    acc = fw_activate(acc, ACTIVATION)
    tl.store(y_ptr + at, fw_narrow(acc, y_ptr.dtype.element_ty), mask=mask)


def precision(x: Tensor) -> str:
    """How fp32 matrices are multiplied: tf32 only where torch allows it to its own products.

    Elsewhere tensor cores take three products, which are as exact as one in fp32.
    """
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    nvidia = x.device.type == "cuda" and torch.version.hip is None
    return "tf32x3" if nvidia and torch.cuda.get_device_capability(x.device) >= (8, 0) else "ieee"


def matmul(
    a: Tensor,
    b: Tensor,
    y: Tensor,
    bias: Tensor | None = None,
    pre: Tensor | None = None,
    activation: int = 0,
) -> None:
    """Write `act(a b + bias)` to y, and the argument of act to pre, of y's strides."""
    (rows, inner), columns = a.shape, b.shape[1]
    if rows == 0 or columns == 0:
        return
    if tma.serves(a, b, y, pre):
        tma.matmul(a, b, y, bias, pre, activation)
        return

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, meta["BLOCK_M"]) * triton.cdiv(columns, meta["BLOCK_N"]),)

    launch_tuned(
        fw_matmul,
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
        *a.stride(),
        *b.stride(),
        *y.stride(),
        BUCKET=min(power_of_2(rows), 8192),
        A_COLUMNS=a.stride(0) == 1 and a.stride(1) != 1,
        B_COLUMNS=b.stride(0) == 1 and b.stride(1) != 1,
        ACTIVATION=activation,
        PRECISION=precision(a) if a.dtype is torch.float32 else "ieee",
        EVEN=inner % 256 == 0,
        DOUBLE=is_double(a),
    )
