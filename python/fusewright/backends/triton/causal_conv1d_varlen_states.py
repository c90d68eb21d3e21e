"""The convolution states of a packed batch of sequences in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2
from fusewright.backends.triton._math import fw_narrow, fw_widen, is_double


@triton.jit
def fw_varlen_states(
    x_ptr, bounds_ptr, y_ptr, T, D, L, xt, xd, cb, yb, yd, yl, BACKWARD: tl.constexpr,
    DOUBLE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """The last L inputs of a sequence from x to y; backward from y to x."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    sequence = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = tl.load(bounds_ptr + sequence * cb).to(tl.int64)
    end = tl.load(bounds_ptr + (sequence + 1) * cb).to(tl.int64)
    right = (begin >= 0) & (begin <= end) & (end <= T)
    for start in range(0, L, BLOCK_L):
        k = start + tl.arange(0, BLOCK_L).to(tl.int64)
        t = end - L + k
        inside = (d < D)[:, None] & (k < L)[None, :]
        mask = inside & (t >= begin)[None, :] & right
        x_at = x_ptr + t[None, :] * xt + d[:, None] * xd
        y_at = y_ptr + sequence * yb + d[:, None] * yd + k[None, :] * yl
        if BACKWARD:
            tl.store(x_at, tl.load(y_at, mask=mask, other=0.0), mask=mask)
        else:
            states = tl.load(x_at, mask=mask, other=0.0)
            states = tl.where(right, fw_widen(states, ACC), float("nan"))
            tl.store(y_at, fw_narrow(states, y_ptr.dtype.element_ty), mask=inside)


def _run(x: Tensor, cu_seqlens: Tensor, y: Tensor, backward: bool) -> None:
    sequences, channels, length = y.shape
    if y.numel() == 0 or x.shape[0] == 0:
        return
    block_l = min(power_of_2(length), 64)
    block_d = min(512 // block_l, power_of_2(channels))
    kernel(fw_varlen_states)[(sequences, triton.cdiv(channels, block_d))](
        x,
        cu_seqlens,
        y,
        x.shape[0],
        channels,
        length,
        *x.stride(),
        cu_seqlens.stride(0),
        *y.stride(),
        BACKWARD=backward,
        DOUBLE=is_double(x),
        BLOCK_D=block_d,
        BLOCK_L=block_l,
        num_warps=4,
    )


def causal_conv1d_varlen_states(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    """On a GPU, where a look at the bounds would wait for it, wrong ones give NaN."""
    if x.device.type == "cpu":
        _check(cu_seqlens.tolist(), x.shape[0])
    shape = (cu_seqlens.shape[0] - 1, x.shape[1], state_len)
    if x.shape[0] == 0:
        return x.new_zeros(shape)
    y = x.new_empty(shape)
    _run(x, cu_seqlens, y, backward=False)
    return y


def _check(bounds: list[int], total: int) -> None:
    least = 0
    for i, bound in enumerate(bounds):
        if not least <= bound <= total:
            raise RuntimeError(
                f"[causal_conv1d_varlen_states] cu_seqlens[{i}] is {bound}, "
                f"must be from {least} to {total}"
            )
        least = bound


def causal_conv1d_varlen_states_backward(
    grad_y: Tensor, x: Tensor, cu_seqlens: Tensor, state_len: int, needs: int
) -> Tensor:
    grad_x = torch.zeros_like(x)
    _run(grad_x, cu_seqlens, grad_y, backward=True)
    return grad_x
