"""Decoding steps of the causal depthwise convolution in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import kernel, power_of_2
from fusewright.backends.triton._math import (
    ACTIVATIONS,
    fw_activate,
    fw_narrow,
    fw_widen,
    is_double,
)


@triton.jit
def fw_update_entry(
    entry, index, x_ptr, state_ptr, w_ptr, b_ptr, seqlens_ptr, y_ptr, d, D, S, L,
    xb, xd, xs, sn, sd, sl, wd, ww, bd, cb, yb, yd, ys,
    W: tl.constexpr, ACTIVATION: tl.constexpr, ACC: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One entry: its outputs, and then, behind a barrier, its state."""
    x_ptr += entry * xb
    y_ptr += entry * yb
    state_ptr += index * sn
    place = tl.cast(L, tl.int64)
    if seqlens_ptr is not None:
        place = tl.load(seqlens_ptr + entry * cb).to(tl.int64) % L + L
    inside = (d < D)[:, None]
    for start in range(0, S, BLOCK_S):
        t = start + tl.arange(0, BLOCK_S).to(tl.int64)
        y = tl.zeros((BLOCK_D, BLOCK_S), ACC)
        for lag in tl.static_range(W):
            u = t - lag
            mask = inside & ((u >= 0) & (u < S))[None, :]
            tap = fw_widen(
                tl.load(x_ptr + d[:, None] * xd + u[None, :] * xs, mask=mask, other=0.0), ACC
            )
            if lag > 0:
                mask = inside & ((u < 0) & (t < S))[None, :]
                at = d[:, None] * sd + ((place + u) % L)[None, :] * sl
                tap += fw_widen(tl.load(state_ptr + at, mask=mask, other=0.0), ACC)
            w = tl.load(w_ptr + d * wd + (W - 1 - lag) * ww, mask=d < D, other=0.0)
            y += tap * fw_widen(w, ACC)[:, None]
        if b_ptr is not None:
            y += fw_widen(tl.load(b_ptr + d * bd, mask=d < D, other=0.0), ACC)[:, None]
        y = fw_narrow(fw_activate(y, ACTIVATION), y_ptr.dtype.element_ty)
        mask = inside & (t < S)[None, :]
        tl.store(y_ptr + d[:, None] * yd + t[None, :] * ys, y, mask=mask)
    tl.debug_barrier()
    if seqlens_ptr is not None:
        first = tl.maximum(S - L, 0)  # what is written twice keeps the last
        for start in range(0, S, BLOCK_S):
            t = start + tl.arange(0, BLOCK_S).to(tl.int64)
            mask = inside & ((t >= first) & (t < S))[None, :]
            x = tl.load(x_ptr + d[:, None] * xd + t[None, :] * xs, mask=mask, other=0.0)
            at = d[:, None] * sd + ((place + t) % L)[None, :] * sl
            x = fw_narrow(fw_widen(x, ACC), state_ptr.dtype.element_ty)
            tl.store(state_ptr + at, x, mask=mask)
    else:
        for start in range(0, L, BLOCK_S):
            k = start + tl.arange(0, BLOCK_S).to(tl.int64)
            u = k + S - L
            mask = inside & ((u >= 0) & (k < L))[None, :]
            x = tl.load(x_ptr + d[:, None] * xd + u[None, :] * xs, mask=mask, other=0.0)
            x = fw_narrow(fw_widen(x, ACC), state_ptr.dtype.element_ty)
            kept = inside & (u < 0)[None, :] & (k < L)[None, :]
            at = d[:, None] * sd + (k + S)[None, :] * sl
            old = tl.load(state_ptr + at, mask=kept, other=0.0)
            # a later piece is read before it is written over, an earlier one has been read
            tl.debug_barrier()
            at = d[:, None] * sd + k[None, :] * sl
            tl.store(state_ptr + at, old, mask=kept)
            tl.store(state_ptr + at, x, mask=mask)
            tl.debug_barrier()
    tl.debug_barrier()


@triton.jit
def fw_update(
    x_ptr, state_ptr, w_ptr, b_ptr, seqlens_ptr, index_ptr, y_ptr, B, N, D, S, L,
    xb, xd, xs, sn, sd, sl, wd, ww, bd, cb, nb, yb, yd, ys,
    W: tl.constexpr, ACTIVATION: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """A program runs all entries that share the state of its own, in order, if its is the first."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    entry = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    if index_ptr is None:
        fw_update_entry(
            entry, entry, x_ptr, state_ptr, w_ptr, b_ptr, seqlens_ptr, y_ptr, d, D, S, L,
            xb, xd, xs, sn, sd, sl, wd, ww, bd, cb, yb, yd, ys,
            W, ACTIVATION, ACC, BLOCK_D, BLOCK_S,
        )  # fmt: skip
    else:
        own = tl.load(index_ptr + entry * nb).to(tl.int64)
        if (own < 0) | (own >= N):
            for start in range(0, S, BLOCK_S):
                t = start + tl.arange(0, BLOCK_S).to(tl.int64)
                zero = tl.zeros((BLOCK_D, BLOCK_S), tl.float32)
                none = fw_narrow(tl.where(own < 0, zero, float("nan")), y_ptr.dtype.element_ty)
                at = entry * yb + d[:, None] * yd + t[None, :] * ys
                tl.store(y_ptr + at, none, mask=(d < D)[:, None] & (t < S)[None, :])
        else:
            entries = tl.arange(0, BLOCK_B).to(tl.int64)
            indices = tl.load(index_ptr + entries * nb, mask=entries < B, other=-1)
            same = indices == own
            if tl.min(tl.where(same, entries, B)) == entry:
                while entry < B:
                    fw_update_entry(
                        entry, own, x_ptr, state_ptr, w_ptr, b_ptr, seqlens_ptr, y_ptr, d, D, S, L,
                        xb, xd, xs, sn, sd, sl, wd, ww, bd, cb, yb, yd, ys,
                        W, ACTIVATION, ACC, BLOCK_D, BLOCK_S,
                    )  # fmt: skip
                    entry = tl.min(tl.where(same & (entries > entry), entries, B)).to(tl.int64)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    """On a GPU, where a look at the indices would wait for it, a wrong one gives NaN."""
    batch, channels, steps = x.shape
    states, _, length = conv_state.shape
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    if conv_state_indices is not None and x.device.type == "cpu":
        largest = int(conv_state_indices.max())
        if largest >= states:
            raise RuntimeError(
                f"[causal_conv1d_update] conv_state_indices has {largest}, must be below {states}"
            )
    block_s = min(power_of_2(max(steps, length if cache_seqlens is None else 1)), 64)
    block_d = min(max(256 // block_s, 1), power_of_2(channels))
    kernel(fw_update)[(triton.cdiv(channels, block_d), batch)](
        x,
        conv_state,
        weight,
        bias,
        cache_seqlens,
        conv_state_indices,
        y,
        batch,
        states,
        channels,
        steps,
        length,
        *x.stride(),
        *conv_state.stride(),
        *weight.stride(),
        0 if bias is None else bias.stride(0),
        0 if cache_seqlens is None else cache_seqlens.stride(0),
        0 if conv_state_indices is None else conv_state_indices.stride(0),
        *y.stride(),
        W=weight.shape[1],
        ACTIVATION=ACTIVATIONS["silu" if silu else "none"],
        DOUBLE=is_double(x),
        BLOCK_B=power_of_2(batch),
        BLOCK_D=block_d,
        BLOCK_S=block_s,
        num_warps=2,
    )
    return y
