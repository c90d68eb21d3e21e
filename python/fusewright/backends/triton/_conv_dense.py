"""The causal convolution along dense time, without sequences or states: the common case.

Loads that start at t - 1 could not be wide. So a thread loads whole chunks of time, aligned, and
takes what it needs of the chunks before and after from registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import (
    fw_fast_silu,
    fw_fast_silu_grad,
    fw_narrow,
    fw_widen,
)


@triton.jit
def fw_chunk_unpack(v, N: tl.constexpr, CHUNK: tl.constexpr):
    """The columns of (N, CHUNK), which a thread holds, as a tuple."""
    even, odd = tl.split(tl.reshape(v, (N, CHUNK // 2, 2)))
    if CHUNK == 8:
        v04, v26 = tl.split(tl.reshape(even, (N, 2, 2)))
        v15, v37 = tl.split(tl.reshape(odd, (N, 2, 2)))
        v0, v4 = tl.split(v04)
        v1, v5 = tl.split(v15)
        v2, v6 = tl.split(v26)
        v3, v7 = tl.split(v37)
        columns = (v0, v1, v2, v3, v4, v5, v6, v7)
    else:
        v0, v2 = tl.split(even)
        v1, v3 = tl.split(odd)
        columns = (v0, v1, v2, v3)
    return columns


@triton.jit
def fw_chunk_pack(v, N: tl.constexpr, CHUNK: tl.constexpr):
    """The opposite."""
    if CHUNK == 8:
        even = tl.join(tl.join(v[0], v[4]), tl.join(v[2], v[6]))
        odd = tl.join(tl.join(v[1], v[5]), tl.join(v[3], v[7]))
    else:
        even, odd = tl.join(v[0], v[2]), tl.join(v[1], v[3])
    return tl.reshape(tl.join(even, odd), (N, CHUNK))


@triton.jit
def fw_chunk_raw(ptr, t, S):
    return tl.load(ptr + t, mask=(t >= 0) & (t < S), other=0.0)


@triton.jit
def fw_chunk_load(ptr, t, S, N: tl.constexpr, CHUNK: tl.constexpr):
    return fw_chunk_unpack(fw_widen(fw_chunk_raw(ptr, t, S), tl.float32), N, CHUNK)


@triton.jit
def fw_chunk_weights(w_ptr, ww, inside, W: tl.constexpr):
    """The taps, that of lag 0 first."""
    many = ()
    for lag in tl.static_range(W):
        tap = tl.load(w_ptr + (W - 1 - lag) * ww, mask=inside)
        many = many + (fw_widen(tap, tl.float32),)
    return many


@triton.jit
def fw_chunk_sums(x, weights, bias, FIRST: tl.constexpr, COUNT: tl.constexpr, W: tl.constexpr):
    """The convolution at COUNT positions, the first of which is x[FIRST]."""
    many = ()
    for e in tl.static_range(COUNT):
        y = x[FIRST + e] * weights[0]
        for lag in tl.static_range(1, W):
            y += x[FIRST + e - lag] * weights[lag]
        many = many + (y + bias,)
    return many


@triton.jit
def fw_conv_dense(
    x_ptr, w_ptr, b_ptr, y_ptr, D, S, steps, xb, xd, wd, ww, bd, yb, yd,
    W: tl.constexpr, USE_SILU: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """`steps` tiles of N chunks of a row; the next one is loaded before this one is computed."""
    pieces = tl.cdiv(tl.cdiv(S, N * CHUNK), steps)
    pid = tl.program_id(0).to(tl.int64)
    batch, d = pid // pieces // D, pid // pieces % D
    t = (pid % pieces).to(tl.int32) * (steps * N * CHUNK)
    t += tl.arange(0, N)[:, None] * CHUNK + tl.arange(0, CHUNK)[None, :]
    x_ptr += batch * xb + d * xd
    y_ptr += batch * yb + d * yd
    before = fw_chunk_raw(x_ptr, t - CHUNK, S)
    own = fw_chunk_raw(x_ptr, t, S)
    bias = 0.0
    if b_ptr is not None:
        bias = fw_widen(tl.load(b_ptr + d * bd), tl.float32)
    weights = fw_chunk_weights(w_ptr + d * wd, ww, None, W)
    for step in range(steps):
        x = fw_chunk_unpack(fw_widen(before, tl.float32), N, CHUNK)
        x = x + fw_chunk_unpack(fw_widen(own, tl.float32), N, CHUNK)
        end = tl.where(step + 1 < steps, S, 0)
        before = fw_chunk_raw(x_ptr, t + (N - 1) * CHUNK, end)
        own = fw_chunk_raw(x_ptr, t + N * CHUNK, end)
        y = fw_chunk_pack(fw_chunk_sums(x, weights, bias, CHUNK, CHUNK, W), N, CHUNK)
        if USE_SILU:
            y = fw_fast_silu(y)
        tl.store(y_ptr + t, fw_narrow(y, y_ptr.dtype.element_ty), mask=t < S)
        t += N * CHUNK


@triton.jit
def fw_conv_dense_gradients(
    g_ptr, x_ptr, w_ptr, b_ptr, dx_ptr, dw_ptr, db_ptr, D, S, steps,
    gb, gd, xb, xd, wd, ww, bd, db, dd,
    W: tl.constexpr, USE_SILU: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and a program's share of the others; it takes `steps` tiles of a row.

    A thread has CHUNKS neighbouring chunks: it computes the gradients before the activation also at
    the W - 1 tokens after them, where the next thread does, too.
    """
    OWN: tl.constexpr = CHUNK * CHUNKS
    pieces = tl.cdiv(tl.cdiv(S, N * OWN), steps)
    pid = tl.program_id(0).to(tl.int64)
    batch, d = pid // pieces // D, pid // pieces % D
    piece = (pid % pieces).to(tl.int32)
    share = batch * pieces + piece
    x_ptr += batch * xb + d * xd
    g_ptr += batch * gb + d * gd
    bias = 0.0
    if b_ptr is not None:
        bias = fw_widen(tl.load(b_ptr + d * bd), tl.float32)
    weights = fw_chunk_weights(w_ptr + d * wd, ww, None, W)
    zero = tl.zeros((N,), tl.float32)
    dw = ()
    for _ in tl.static_range(W):
        dw = dw + (zero,)
    dbias = zero
    for step in range(steps):
        first = (piece * steps + step) * (N * OWN) + tl.arange(0, N) * OWN
        t = first[:, None] + tl.arange(0, CHUNK)[None, :]
        x = fw_chunk_load(x_ptr, t - CHUNK, S, N, CHUNK)
        g = ()
        for part in tl.static_range(CHUNKS):
            x = x + fw_chunk_load(x_ptr, t + part * CHUNK, S, N, CHUNK)
            g = g + fw_chunk_load(g_ptr, t + part * CHUNK, S, N, CHUNK)
        g = g + fw_chunk_load(g_ptr, t + OWN, S, N, CHUNK)
        if USE_SILU:
            x = x + fw_chunk_load(x_ptr, t + OWN, S, N, CHUNK)
            pre = fw_chunk_sums(x, weights, bias, CHUNK, OWN + W - 1, W)
            g = fw_chunk_slopes(g, pre, first, S, OWN + W - 1)
        if dx_ptr is not None:
            at = dx_ptr + batch * db + d * dd + t
            for part in tl.static_range(CHUNKS):
                dx = fw_chunk_pack(fw_chunk_inputs(g, weights, part * CHUNK, CHUNK, W), N, CHUNK)
                dx = fw_narrow(dx, dx_ptr.dtype.element_ty)
                tl.store(at + part * CHUNK, dx, mask=t + part * CHUNK < S)
        dw = fw_chunk_products(dw, g, x, CHUNK, OWN, W)
        for e in tl.static_range(OWN):
            dbias += g[e]
    if dw_ptr is not None:
        for lag in tl.static_range(W):
            tl.store(dw_ptr + (share * D + d) * W + (W - 1 - lag), tl.sum(dw[lag], 0))
    if db_ptr is not None:
        tl.store(db_ptr + share * D + d, tl.sum(dbias, 0))


@triton.jit
def fw_chunk_inputs(g, weights, FIRST: tl.constexpr, COUNT: tl.constexpr, W: tl.constexpr):
    """The gradients of COUNT inputs, of those before the activation from the same token on."""
    many = ()
    for e in tl.static_range(COUNT):
        total = g[FIRST + e] * weights[0]
        for lag in tl.static_range(1, W):
            total += g[FIRST + e + lag] * weights[lag]
        many = many + (total,)
    return many


@triton.jit
def fw_chunk_slopes(g, pre, first, S, COUNT: tl.constexpr):
    """The gradients before the activation, zero past the end whatever stands there."""
    many = ()
    for e in tl.static_range(COUNT):
        slope = g[e] * fw_fast_silu_grad(pre[e])
        many = many + (tl.where(first + e < S, slope, 0.0),)
    return many


@triton.jit
def fw_chunk_products(
    dw, g, x, FIRST: tl.constexpr, COUNT: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """Add what COUNT tokens, the first of which is x[FIRST], give to the gradients of the taps."""
    many = ()
    for lag in tl.static_range(W):
        total = dw[lag]
        for e in tl.static_range(COUNT):
            total += g[e] * x[FIRST + e - lag]
        many = many + (total,)
    return many
