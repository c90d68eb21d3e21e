"""Decoding steps of the causal depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusewright._op import Op, supported_dtypes
from fusewright.errors import fail
from fusewright.ops.causal_conv1d import check_filter, uses_silu

_OP = "causal_conv1d_update"


def _reference(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    if conv_state_indices is not None:
        _check_indices(conv_state_indices, conv_state.shape[0])
    rows = []
    for i in range(x.shape[0]):  # one after the other: entries may share a state
        index = i if conv_state_indices is None else int(conv_state_indices[i])
        if index < 0:
            rows.append(torch.zeros_like(x[i]))
            continue
        seqlen = None if cache_seqlens is None else int(cache_seqlens[i])
        rows.append(_step(x[i], conv_state[index], weight, bias, seqlen, silu))
    return torch.stack(rows) if rows else torch.empty_like(x)


def _check_indices(indices: Tensor, states: int) -> None:
    """As the kernels do: only the data shows it, so it is no `ArgumentError` of `_check`."""
    for index in indices.tolist():
        if index >= states:
            text = f"[{_OP}] conv_state_indices has {index}, must be below {states}"
            raise RuntimeError(text)


def _step(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, seqlen: int | None, silu: bool
) -> Tensor:
    """The steps of one entry: x (D, S), state (D, L), which is changed."""
    history, length, steps = weight.shape[1] - 1, state.shape[1], x.shape[1]
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    at = torch.arange(-history, steps, device=x.device) + (length if seqlen is None else seqlen)
    full = torch.cat([state[:, at[:history] % length] if history else state[:, :0], x], -1)
    full = full.to(dtype)
    y = sum(
        (full[:, j : j + steps] * weight[:, j, None].to(dtype) for j in range(history + 1)),
        start=torch.zeros((), dtype=dtype, device=x.device),
    )
    if bias is not None:
        y = y + bias[:, None].to(dtype)
    if silu:
        y = torch.nn.functional.silu(y)
    if seqlen is None:
        state.copy_(torch.cat([state, x.to(state.dtype)], -1)[:, steps:])
    else:
        for t in range(steps):
            state[:, (seqlen + t) % length] = x[:, t].to(state.dtype)
    return y.to(x.dtype)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _check(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> None:
    if x.dim() != 3:
        fail(_OP, "x.dim()", x.dim(), "be 2, (batch, channels), or 3, (batch, channels, steps)")
    if not x.is_floating_point():
        fail(_OP, "x.dtype", x.dtype, "be a floating-point type")
    batch, channels, _ = x.shape
    check_filter(_OP, weight, bias, channels)
    history = weight.shape[1] - 1
    if conv_state.dim() != 3 or conv_state.shape[1] != channels or conv_state.shape[2] < history:
        must = f"be (states, {channels}, length) with length >= {history}"
        fail(_OP, "conv_state.shape", tuple(conv_state.shape), must)
    if not conv_state.is_floating_point():
        fail(_OP, "conv_state.dtype", conv_state.dtype, "be a floating-point type")
    for size, stride in zip(conv_state.shape, conv_state.stride(), strict=True):
        if size > 1 and stride == 0:
            must = "reach every element once: it is written to"
            fail(_OP, "conv_state.stride()", conv_state.stride(), must)
    if conv_state.shape[2] == 0:
        fail(_OP, "conv_state.shape[2]", 0, "be at least 1")
    if conv_state_indices is None and conv_state.shape[0] != batch:
        must = f"be {batch} as x.shape[0], or conv_state_indices be given"
        fail(_OP, "conv_state.shape[0]", conv_state.shape[0], must)
    for name, value in (
        ("cache_seqlens", cache_seqlens),
        ("conv_state_indices", conv_state_indices),
    ):
        if value is None:
            continue
        if value.shape != (batch,):
            fail(_OP, f"{name}.shape", tuple(value.shape), f"be ({batch},)")
        if value.dtype not in (torch.int32, torch.int64):
            fail(_OP, f"{name}.dtype", value.dtype, "be int32 or int64")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, int, int] = (3, 5, 1),
    width: int = 4,
    length: int = 3,
    states: int | None = None,
    weight_dtype: torch.dtype | None = None,
    circular: bool = False,
    silu: bool = True,
) -> tuple[Any, ...]:
    batch, channels, _ = shape
    options: dict[str, Any] = {"dtype": weight_dtype or dtype, "device": device}
    indices = None if states is None else torch.randperm(states, device=device)[:batch].int()
    return (
        torch.randn(shape, dtype=dtype, device=device),
        torch.randn(states or batch, channels, length, dtype=dtype, device=device),
        torch.randn(channels, width, **options),
        torch.randn(channels, **options),
        torch.randint(0, 100, (batch,), device=device).int() if circular else None,
        indices,
        silu,
    )


CAUSAL_CONV1D_UPDATE = Op(
    name="causal_conv1d_update",
    forward="(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, "
    "Tensor? cache_seqlens, Tensor? conv_state_indices, bool silu) -> (Tensor y)",
    backward=None,
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


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """One or more decoding steps of `causal_conv1d`; `conv_state` is changed in place.

    The output is that of `causal_conv1d` on the state's inputs followed by x, at x's places. The
    state then holds the last L inputs, or, with `cache_seqlens`, x is written to it circularly.

    Args:
        x: (B, D) or (B, D, S); fp64, fp32, bf16 or fp16; any strides.
        conv_state: (B, D, L), or (N, D, L) with `conv_state_indices`; L >= W-1 and >= 1.
        weight: (D, W); of a floating-point type of its own.
        bias: (D,) or None.
        activation: None, 'silu' or 'swish', which is the same.
        cache_seqlens: (B,), int32 or int64: makes the state a circular buffer whose next input
            goes to place `cache_seqlens % L`.
        conv_state_indices: (B,), int32 or int64: the state of every entry. A negative one gives
            an output of 0 and changes no state; entries that share a state run in their order.
        backend: the backend to run on; None picks the default.

    Returns:
        y, of x's shape and dtype.

    Raises:
        ArgumentError: a shape, dtype or activation is none of the above.
        UnsupportedError: a gradient is needed; the step has none.
        RuntimeError: an index is not below N; a GPU, which nothing waits for, gives NaN instead and
            changes no state.

    The interface is that of Dao-AILab/causal-conv1d.
    """
    flat = isinstance(x, Tensor) and x.dim() == 2
    y: Tensor = CAUSAL_CONV1D_UPDATE(
        x.unsqueeze(-1) if flat else x,
        conv_state,
        weight,
        bias,
        cache_seqlens,
        conv_state_indices,
        uses_silu(_OP, activation),
        backend=backend,
    )
    return y.squeeze(-1) if flat else y
