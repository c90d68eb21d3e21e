"""Causal depthwise 1D convolution in Triton."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._conv import (
    fw_conv_forward,
    fw_conv_gradients,
    fw_conv_state_gradient,
)
from fusewright.backends.triton._conv_dense_calls import (
    dense_backward,
    dense_dim,
    dense_forward,
    strides,
)
from fusewright.backends.triton._launch import kernel, none_like, power_of_2
from fusewright.backends.triton._math import ACTIVATIONS, accumulator, is_double
from fusewright.backends.triton._reduce import sum_rows


def _blocks(x: Tensor) -> dict[str, int]:
    """A tile along the dimension that is dense in memory."""
    _, channels, length = x.shape
    if x.stride(1) == 1 and x.stride(2) != 1:
        block = {"BLOCK_D": 64, "BLOCK_S": 32}
    else:
        block = {"BLOCK_D": 2, "BLOCK_S": 1024}
    block["BLOCK_S"] = min(block["BLOCK_S"], power_of_2(length))
    block["BLOCK_D"] = min(2048 // block["BLOCK_S"], power_of_2(channels))
    return block


def _programs(x: Tensor, length: int, block: dict[str, int]) -> int:
    tiles = max(triton.cdiv(length, block["BLOCK_S"]), 1)
    return tiles * triton.cdiv(x.shape[1], block["BLOCK_D"]) * x.shape[0]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    return_final_states: bool,
) -> tuple[Tensor, Tensor]:
    batch, channels, length = x.shape
    y = torch.empty_like(x)
    final = None
    plain = seq_idx is None and initial_states is None
    dim = dense_dim(weight.shape[1], x, y) if plain else None
    if dim is not None:
        dense_forward(dim, x, weight, bias, silu, y)
        if return_final_states:
            final = x[..., length - (weight.shape[1] - 1) :].clone(
                memory_format=torch.contiguous_format
            )
        return y, none_like(x) if final is None else final
    if return_final_states:
        final = x.new_empty((batch, channels, weight.shape[1] - 1))
    _forward(x, weight, bias, seq_idx, initial_states, silu, y, final, None)
    return y, none_like(x) if final is None else final


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    y: Tensor,
    final: Tensor | None,
    grad_y: Tensor | None,
) -> None:
    """Write the outputs; or, where their gradient is given, that before the activation."""
    batch, channels, length = x.shape
    if batch * channels == 0:
        return
    block = _blocks(x)
    kernel(fw_conv_forward)[(_programs(x, length, block),)](
        x,
        weight,
        bias,
        seq_idx,
        initial_states,
        y,
        final,
        grad_y,
        channels,
        length,
        *x.stride(),
        *weight.stride(),
        *strides(bias, 1),
        *strides(seq_idx, 2),
        *strides(initial_states, 3),
        *y.stride(),
        *strides(final, 3),
        *strides(grad_y, 3),
        W=weight.shape[1],
        ACTIVATION=ACTIVATIONS["silu" if silu else "none"],
        DOUBLE=is_double(x),
        **block,
        BLOCK_W=power_of_2(weight.shape[1]),
        num_warps=4,
    )


def causal_conv1d_backward(
    grad_y: Tensor | None,
    grad_final_states: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, length = x.shape
    width = weight.shape[1]
    plain = grad_final_states is None and seq_idx is None and initial_states is None
    dim = None
    if plain and grad_y is not None:
        dim = dense_dim(width, x, grad_y, torch.empty_like(x))
    if dim is not None and grad_y is not None:
        return dense_backward(dim, grad_y, x, weight, bias, silu, needs)
    if grad_y is None:
        slope = torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
    elif silu or seq_idx is not None:
        slope = torch.empty_like(x, dtype=accumulator(x))
        _forward(x, weight, bias, seq_idx, initial_states, silu, slope, None, grad_y)
    else:
        slope = grad_y
    grad_x = torch.empty_like(x) if needs & 1 else None
    wants_bias = bool(needs & 4) and bias is not None
    block = _blocks(x)
    tiles = triton.cdiv(length, block["BLOCK_S"])
    steps = triton.cdiv(tiles, 4)
    shares = batch * triton.cdiv(triton.cdiv(length, max(steps, 1)), block["BLOCK_S"])
    dtype = accumulator(x)
    dw = x.new_empty((shares, channels, width), dtype=dtype) if needs & 2 else None
    db = x.new_empty((shares, channels), dtype=dtype) if wants_bias else None
    if x.numel() > 0 and needs & 7:
        programs = shares * triton.cdiv(channels, block["BLOCK_D"])
        kernel(fw_conv_gradients)[(programs,)](
            slope,
            grad_final_states,
            x,
            weight,
            seq_idx,
            initial_states,
            grad_x,
            dw,
            db,
            channels,
            length,
            steps,
            *slope.stride(),
            *strides(grad_final_states, 3),
            *x.stride(),
            *weight.stride(),
            *strides(seq_idx, 2),
            *strides(initial_states, 3),
            *strides(grad_x, 3),
            W=width,
            DOUBLE=is_double(x),
            **block,
            BLOCK_W=power_of_2(width),
            num_warps=4,
        )
    grad_states = none_like(x)
    if needs & 8 and initial_states is not None:
        grad_states = torch.empty_like(initial_states)
        _state_gradient(slope, grad_final_states, x, weight, seq_idx, grad_states)
    return (
        none_like(x) if grad_x is None else grad_x,
        none_like(x) if dw is None else sum_rows(dw, weight),
        none_like(x) if db is None or bias is None else sum_rows(db, bias),
        grad_states,
    )


def _state_gradient(
    slope: Tensor,
    grad_final_states: Tensor | None,
    x: Tensor,
    weight: Tensor,
    seq_idx: Tensor | None,
    out: Tensor,
) -> None:
    batch, channels, length = x.shape
    if out.numel() == 0:
        return
    block_w = power_of_2(weight.shape[1])
    block_d = max(1, min(512 // block_w, power_of_2(channels)))
    kernel(fw_conv_state_gradient)[(batch * triton.cdiv(channels, block_d),)](
        slope,
        grad_final_states,
        weight,
        seq_idx,
        out,
        channels,
        length,
        *slope.stride(),
        *strides(grad_final_states, 3),
        *weight.stride(),
        *strides(seq_idx, 2),
        *out.stride(),
        W=weight.shape[1],
        DOUBLE=is_double(x),
        BLOCK_D=block_d,
        BLOCK_W=block_w,
        num_warps=4,
    )
