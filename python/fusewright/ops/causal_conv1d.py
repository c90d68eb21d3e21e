"""Causal depthwise 1D convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusewright._check import check_floating, check_tensor
from fusewright._op import Op, supported_dtypes
from fusewright.errors import fail


def uses_silu(op: str, activation: str | None) -> bool:
    """Whether the activation of that name is SiLU; it is that or none."""
    if activation not in (None, "silu", "swish"):
        fail(op, "activation", repr(activation), "be None, 'silu' or 'swish'")
    return activation is not None


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    return_final_states: bool,
) -> tuple[Tensor, Tensor | None]:
    batch, channels, length = x.shape
    width = weight.shape[1]
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    left = x.new_zeros(batch, channels, width - 1) if initial_states is None else initial_states
    full = torch.cat([left.to(dtype), x.to(dtype)], -1)
    y = x.new_zeros(x.shape, dtype=dtype)
    for lag in range(width):
        tap = full[..., width - 1 - lag : width - 1 - lag + length]
        if seq_idx is not None:
            tap = tap.masked_fill(~_same(seq_idx, lag)[:, None], 0)
        y = y + tap * weight[:, width - 1 - lag, None].to(dtype)
    if bias is not None:
        y = y + bias[:, None].to(dtype)
    if silu:
        y = torch.nn.functional.silu(y)
    if seq_idx is not None:
        y = y.masked_fill((seq_idx < 0)[:, None], 0)
    final = None
    if return_final_states:
        final = full[..., length:]
        if seq_idx is not None and length > 0:
            ids = torch.cat([seq_idx[:, :1].expand(-1, width - 1), seq_idx], 1)[:, length:]
            last = seq_idx[:, -1:]
            final = final.masked_fill(~((ids == last) & (last >= 0))[:, None], 0)
        final = final.to(x.dtype)
    return y.to(x.dtype), final


def _same(seq_idx: Tensor, lag: int) -> Tensor:
    """Whether the token `lag` before each one belongs to its sequence.

    Before the first token stand the states of the first one's sequence.
    """
    at = torch.arange(seq_idx.shape[1], device=seq_idx.device) - lag
    return (seq_idx[:, at.clamp(min=0)] == seq_idx) & (seq_idx >= 0)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    return_final_states: bool,
) -> tuple[Tensor, Tensor]:
    batch, channels, _ = x.shape
    states = (batch, channels, weight.shape[1] - 1) if return_final_states else (0,)
    return torch.empty_like(x), x.new_empty(states)


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    return_final_states: bool,
) -> None:
    op = "causal_conv1d"
    if x.dim() != 3:
        fail(op, "x.dim()", x.dim(), "be 3: (batch, channels, length)")
    check_floating(op, "x", x)
    batch, channels, length = x.shape
    check_filter(op, weight, bias, channels)
    if seq_idx is not None:
        if seq_idx.shape != (batch, length):
            fail(op, "seq_idx.shape", tuple(seq_idx.shape), f"be {(batch, length)} as x's")
        if seq_idx.dtype not in (torch.int32, torch.int64):
            fail(op, "seq_idx.dtype", seq_idx.dtype, "be int32 or int64")
    if initial_states is not None:
        states = (batch, channels, weight.shape[1] - 1)
        if initial_states.shape != states:
            fail(op, "initial_states.shape", tuple(initial_states.shape), f"be {states}")
        check_floating(op, "initial_states", initial_states)


def check_filter(op: str, weight: Tensor, bias: Tensor | None, channels: int) -> None:
    """The checks of weight and bias that the causal convolutions share."""
    shape = weight.shape
    if len(shape) != 2 or shape[0] != channels or shape[1] < 1:
        fail(op, "weight.shape", tuple(shape), f"be ({channels}, width) with width >= 1")
    check_floating(op, "weight", weight)
    if bias is None:
        return
    if bias.shape != (channels,):
        fail(op, "bias.shape", tuple(bias.shape), f"be ({channels},)")
    check_floating(op, "bias", bias)


def _supports(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    *_: Any,
) -> str | None:
    return supported_dtypes(x, weight, bias, initial_states)


def _check_out(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """The checks of `final_states_out`; those of x and weight come after it."""
    op, name = "causal_conv1d", "final_states_out"
    check_tensor(op, name, out)
    check_floating(op, name, out)
    if not (isinstance(x, Tensor) and isinstance(weight, Tensor)):
        return
    states = (*x.shape[:2], weight.shape[-1] - 1 if weight.dim() else 0)
    if out.shape != states:
        fail(op, f"{name}.shape", tuple(out.shape), f"be {states}")
    if out.device != x.device:
        fail(op, f"{name}.device", out.device, f"be {x.device} as x")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, int, int] = (2, 5, 19),
    width: int = 4,
    weight_dtype: torch.dtype | None = None,
    bias: bool = True,
    seq_idx: bool = False,
    initial_states: bool = False,
    silu: bool = True,
    return_final_states: bool = False,
    channel_last: bool = False,
) -> tuple[Any, ...]:
    batch, channels, length = shape
    options: dict[str, Any] = {"dtype": weight_dtype or dtype, "device": device}
    x = torch.randn(shape, dtype=dtype, device=device)
    if channel_last:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    ids = torch.randint(-1, 2, (batch, length), device=device).cumsum(1).int()
    return (
        x,
        torch.randn(channels, width, **options),
        torch.randn(channels, **options) if bias else None,
        ids if seq_idx else None,
        torch.randn(batch, channels, width - 1, dtype=dtype, device=device)
        if initial_states
        else None,
        silu,
        return_final_states,
    )


CAUSAL_CONV1D = Op(
    name="causal_conv1d",
    forward="(Tensor x, Tensor weight, Tensor? bias, Tensor? seq_idx, Tensor? initial_states, "
    "bool silu, bool return_final_states) -> (Tensor y, Tensor final_states)",
    backward="(Tensor? grad_y, Tensor? grad_final_states, Tensor x, Tensor weight, Tensor? bias, "
    "Tensor? seq_idx, Tensor? initial_states, bool silu, int needs) -> (Tensor grad_x, "
    "Tensor grad_weight, Tensor grad_bias, Tensor grad_initial_states)",
    outputs=("y", "final_states"),
    reference=_reference,
    fake=_fake,
    check=_check,
    supports={"cpu": _supports, "cuda": _supports, "metal": _supports, "triton": _supports},
    sample=_sample,
)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Causal depthwise convolution along the last dimension, with optional SiLU.

    `y[b, d, t] = act(bias[d] + Σ_j weight[d, W-1-j] · x[b, d, t-j])`, `j = 0 … W-1`. Before the
    first element stand `initial_states`, or zeros.

    Args:
        x: (B, D, S); fp64, fp32, bf16 or fp16; any strides, (B, S, D) in memory included.
        weight: (D, W), W >= 1; of a floating-point type of its own.
        bias: (D,).
        seq_idx: (B, S), int32 or int64: the sequence each token belongs to. A token sees only
            tokens of its own sequence; one with a negative index gives 0 and gets no gradient.
        initial_states: (B, D, W-1), the inputs before the first; with `seq_idx` they belong to
            the sequence of the first token.
        return_final_states: also return the last W-1 inputs, initial states included; with
            `seq_idx` those of the last token's sequence, the others 0.
        final_states_out: a (B, D, W-1) tensor that receives the final states; implies
            `return_final_states`.
        activation: None, 'silu' or 'swish', which is the same.
        backend: the backend to run on; None picks the default.

    Returns:
        y, of x's shape and dtype; or (y, final_states), of shape (B, D, W-1) and x's dtype.

    Raises:
        ArgumentError: a shape, dtype or activation is none of the above.

    The interface is that of Dao-AILab/causal-conv1d, without its limits on width, strides and the
    combination of `seq_idx` with states.
    """
    if final_states_out is not None:
        _check_out(x, weight, final_states_out)
    wants_states = return_final_states or final_states_out is not None
    y, final_states = CAUSAL_CONV1D(
        x,
        weight,
        bias,
        seq_idx,
        initial_states,
        uses_silu("causal_conv1d", activation),
        wants_states,
        backend=backend,
    )
    if not wants_states:
        return y
    if final_states_out is not None:
        final_states = final_states_out.copy_(final_states)
    return y, final_states
