"""The causal convolution along dense channels, without sequences or states.

A program has a few channels and walks along the time: a token is loaded once, and what the next
ones need of it stays in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._conv_dense import (
    fw_chunk_inputs,
    fw_chunk_products,
    fw_chunk_slopes,
    fw_chunk_sums,
    fw_chunk_weights,
)
from fusewright.backends.triton._math import fw_fast_silu, fw_narrow, fw_widen


@triton.jit
def fw_channels_place(D, S, length, BLOCK_D: tl.constexpr):
    """A program's share (a piece of time of a batch), the batch, its channels, where it begins."""
    pid = tl.program_id(0)
    blocks, pieces = tl.cdiv(D, BLOCK_D), tl.cdiv(S, length)
    share = pid // blocks
    d = (pid % blocks * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)
    return share.to(tl.int64), (share // pieces).to(tl.int64), d, share % pieces * length


@triton.jit
def fw_channels_step(stride):
    """In 64 bits, as positions are; tokens are counted in 32: fewer instructions for the masks."""
    return stride + tl.full((), 0, tl.int64)


@triton.jit
def fw_channels_load(ptr, t, first, S, stride, inside, COUNT: tl.constexpr):
    """COUNT tokens from t on, as loaded; zero outside of [first, S)."""
    step = fw_channels_step(stride)
    at = ptr + t * step
    many = ()
    for u in tl.static_range(COUNT):
        mask = inside & ((t + u >= first) & (t + u < S))
        many = many + (tl.load(at + u * step, mask=mask, other=0.0),)
    return many


@triton.jit
def fw_channels_widen(v, COUNT: tl.constexpr):
    many = ()
    for u in tl.static_range(COUNT):
        many = many + (fw_widen(v[u], tl.float32),)
    return many


@triton.jit
def fw_channels_part(v, FIRST: tl.constexpr, COUNT: tl.constexpr):
    many = ()
    for u in tl.static_range(COUNT):
        many = many + (v[FIRST + u],)
    return many


@triton.jit
def fw_conv_channels(
    x_ptr, w_ptr, b_ptr, y_ptr, D, S, length, xb, xs, wd, ww, bd, yb, ys,
    W: tl.constexpr, USE_SILU: tl.constexpr, BLOCK_D: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    _, batch, d, begin = fw_channels_place(D, S, length, BLOCK_D)
    inside = d < D
    x_ptr += batch * xb + d
    y_ptr += batch * yb + d
    end = tl.minimum(begin + length, S)
    coming = fw_channels_load(x_ptr, begin, 0, S, xs, inside, AHEAD)
    past = fw_channels_load(x_ptr, begin - (W - 1), 0, S, xs, inside, W - 1)
    past = fw_channels_widen(past, W - 1)
    weights = fw_chunk_weights(w_ptr + d * wd, ww, inside, W)
    bias = 0.0
    if b_ptr is not None:
        bias = fw_widen(tl.load(b_ptr + d * bd, mask=inside, other=0.0), tl.float32)
    for t in range(begin, end, AHEAD):
        x = past + fw_channels_widen(coming, AHEAD)
        coming = fw_channels_load(x_ptr, t + AHEAD, 0, end, xs, inside, AHEAD)
        y = fw_chunk_sums(x, weights, bias, W - 1, AHEAD, W)
        step = fw_channels_step(ys)
        at = y_ptr + t * step
        for u in tl.static_range(AHEAD):
            value = y[u]
            if USE_SILU:
                value = fw_fast_silu(value)
            value = fw_narrow(value, y_ptr.dtype.element_ty)
            tl.store(at + u * step, value, mask=inside & (t + u < end))
        past = fw_channels_part(x, AHEAD, W - 1)


@triton.jit
def fw_conv_channels_gradients(
    g_ptr, x_ptr, w_ptr, b_ptr, dx_ptr, dw_ptr, db_ptr, D, S, length,
    gb, gs, xb, xs, wd, ww, bd, db, ds,
    W: tl.constexpr, USE_SILU: tl.constexpr, BLOCK_D: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and a piece's share of the others.

    With the token t the gradient of the input W - 1 before it is complete, so a piece goes on for
    as many tokens after its end.
    """
    share, batch, d, begin = fw_channels_place(D, S, length, BLOCK_D)
    inside = d < D
    x_ptr += batch * xb + d
    g_ptr += batch * gb + d
    end = tl.minimum(begin + length, S)
    stop = tl.minimum(end + W - 1, S)
    coming_x = fw_channels_load(x_ptr, begin, 0, stop, xs, inside, AHEAD)
    coming_g = fw_channels_load(g_ptr, begin, 0, stop, gs, inside, AHEAD)
    past = fw_channels_load(x_ptr, begin - (W - 1), 0, S, xs, inside, W - 1)
    past = fw_channels_widen(past, W - 1)
    weights = fw_chunk_weights(w_ptr + d * wd, ww, inside, W)
    bias = 0.0
    if b_ptr is not None:
        bias = fw_widen(tl.load(b_ptr + d * bd, mask=inside, other=0.0), tl.float32)
    zero = tl.zeros((BLOCK_D,), tl.float32)
    dbias = zero
    dw = ()
    for _ in tl.static_range(W):
        dw = dw + (zero,)
    before = ()  # the gradients of the last W - 1 tokens
    for _ in tl.static_range(W - 1):
        before = before + (zero,)
    for t in range(begin, end + W - 1, AHEAD):
        x = past + fw_channels_widen(coming_x, AHEAD)
        g = fw_channels_widen(coming_g, AHEAD)
        coming_x = fw_channels_load(x_ptr, t + AHEAD, 0, stop, xs, inside, AHEAD)
        coming_g = fw_channels_load(g_ptr, t + AHEAD, 0, stop, gs, inside, AHEAD)
        if USE_SILU:
            pre = fw_chunk_sums(x, weights, bias, W - 1, AHEAD, W)
            g = fw_chunk_slopes(g, pre, t, S, AHEAD)
        all_g = before + g
        if dx_ptr is not None:
            dx = fw_chunk_inputs(all_g, weights, 0, AHEAD, W)
            step = fw_channels_step(ds)
            to = dx_ptr + batch * db + d + (t - (W - 1)) * step
            for u in tl.static_range(AHEAD):
                at = t + u - (W - 1)
                value = fw_narrow(dx[u], dx_ptr.dtype.element_ty)
                tl.store(to + u * step, value, mask=inside & ((at >= begin) & (at < end)))
        own = fw_channels_own(g, t, end, AHEAD)
        dw = fw_chunk_products(dw, own, x, W - 1, AHEAD, W)
        for u in tl.static_range(AHEAD):
            dbias += own[u]
        past = fw_channels_part(x, AHEAD, W - 1)
        before = fw_channels_part(all_g, AHEAD, W - 1)
    if dw_ptr is not None:
        for lag in tl.static_range(W):
            tl.store(dw_ptr + (share * D + d) * W + (W - 1 - lag), dw[lag], mask=inside)
    if db_ptr is not None:
        tl.store(db_ptr + share * D + d, dbias, mask=inside)


@triton.jit
def fw_channels_own(g, t, end, COUNT: tl.constexpr):
    """The gradients of the piece itself."""
    many = ()
    for u in tl.static_range(COUNT):
        many = many + (tl.where(t + u < end, g[u], 0.0),)
    return many
