"""The convolution states of a packed batch of sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fusewright._op import Op, supported_dtypes
from fusewright.errors import fail

_OP = "causal_conv1d_varlen_states"


def _reference(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    _check_bounds(cu_seqlens, x.shape[0])
    if x.shape[0] == 0:
        return x.new_zeros(cu_seqlens.shape[0] - 1, x.shape[1], state_len)
    start, end = cu_seqlens[:-1, None].long(), cu_seqlens[1:, None].long()
    at = end - state_len + torch.arange(state_len, device=x.device)
    states = x[at.clamp(min=0)] * (at >= start).unsqueeze(-1).to(x.dtype)
    return states.transpose(1, 2).contiguous()


def _check_bounds(cu_seqlens: Tensor, total: int) -> None:
    """As the kernels do: only the data shows it, so it is no `ArgumentError` of `_check`."""
    if is_compiling():  # a trace has no data
        return
    before = 0
    for i, bound in enumerate(cu_seqlens.tolist()):
        if not before <= bound <= total:
            text = f"cu_seqlens[{i}] is {bound}, must be from {before} to {total}"
            raise RuntimeError(f"[{_OP}] {text}")
        before = bound


def _fake(x: Tensor, cu_seqlens: Tensor, state_len: int) -> Tensor:
    return x.new_empty((cu_seqlens.shape[0] - 1, x.shape[1], state_len))


def _check(x: Tensor, cu_seqlens: Tensor, state_len: int) -> None:
    if x.dim() != 2:
        fail(_OP, "x.dim()", x.dim(), "be 2: (total, channels)")
    if not x.is_floating_point():
        fail(_OP, "x.dtype", x.dtype, "be a floating-point type")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        fail(_OP, "cu_seqlens.shape", tuple(cu_seqlens.shape), "be (sequences + 1,)")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        fail(_OP, "cu_seqlens.dtype", cu_seqlens.dtype, "be int32 or int64")
    if state_len < 0:
        fail(_OP, "state_len", state_len, "be >= 0")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    lengths: tuple[int, ...] = (3, 1, 0, 7, 2),
    channels: int = 5,
    state_len: int = 3,
) -> tuple[Any, ...]:
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    x = torch.randn(sum(lengths), channels, dtype=dtype, device=device)
    return x, bounds, state_len


CAUSAL_CONV1D_VARLEN_STATES = Op(
    name="causal_conv1d_varlen_states",
    forward="(Tensor x, Tensor cu_seqlens, int state_len) -> (Tensor y)",
    backward="(Tensor grad_y, Tensor x, Tensor cu_seqlens, int state_len, int needs) -> "
    "(Tensor grad_x)",
    reference=_reference,
    fake=_fake,
    check=_check,
    supports={
        "cpu": supported_dtypes,
        "cuda": supported_dtypes,
        "metal": supported_dtypes,
        "triton": supported_dtypes,
    },
    sample=_sample,
)


def causal_conv1d_varlen_states(
    x: Tensor, cu_seqlens: Tensor, state_len: int, *, backend: str | None = None
) -> Tensor:
    """The last `state_len` inputs of every sequence of a packed batch, zeros before short ones.

    `y[b, :, state_len - i] = x[cu_seqlens[b+1] - i]` for i = 1 … min(state_len, length of b).

    Args:
        x: (total, D); fp64, fp32, bf16 or fp16; any strides.
        cu_seqlens: (B+1,), int32 or int64: where the sequences begin, and the end of the last.
        state_len: how many inputs a state holds, >= 0.
        backend: the backend to run on; None picks the default.

    Returns:
        y, (B, D, state_len), of x's dtype: the `conv_state` of `causal_conv1d_update`.

    Raises:
        ArgumentError: a shape, dtype or length is none of the above.
        RuntimeError: cu_seqlens decreases or leaves x; a GPU, which nothing waits for, gives states
            of NaN to such a sequence.

    The interface is that of Dao-AILab/causal-conv1d; here it has a gradient.
    """
    return CAUSAL_CONV1D_VARLEN_STATES(x, cu_seqlens, state_len, backend=backend)
