"""The causal convolution for every option: any strides, width, seq_idx and states."""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_activate, fw_activate_grad, fw_narrow, fw_widen


@triton.jit
def fw_conv_same(seq_ptr, t, lag, S, ss):
    """Whether the token `lag` before each t is of its sequence; before the first is the first's."""
    inside = (t >= 0) & (t < S)
    own = tl.load(seq_ptr + t * ss, mask=inside, other=-1)
    before = tl.load(seq_ptr + tl.maximum(t - lag, 0) * ss, mask=inside, other=-1)
    return (before == own) & (own >= 0)


@triton.jit
def fw_conv_input(
    x_ptr, init_ptr, d, t, D, S, xd, xs, ic, it, W: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The inputs at times t, those of the initial states before 0, else zero."""
    mask = (d < D)[:, None] & ((t >= 0) & (t < S))[None, :]
    x = fw_widen(tl.load(x_ptr + d[:, None] * xd + t[None, :] * xs, mask=mask, other=0.0), ACC)
    if init_ptr is not None:
        k = t + (W - 1)
        mask = (d < D)[:, None] & ((t < 0) & (k >= 0))[None, :]
        at = d[:, None] * ic + k[None, :] * it
        x += fw_widen(tl.load(init_ptr + at, mask=mask, other=0.0), ACC)
    return x


@triton.jit
def fw_conv_tap(
    x_ptr, init_ptr, seq_ptr, d, t, lag, D, S, xd, xs, ic, it, ss,
    W: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What stands `lag` before each t, zero where it is of another sequence."""
    x = fw_conv_input(x_ptr, init_ptr, d, t - lag, D, S, xd, xs, ic, it, W, ACC)
    if seq_ptr is not None:
        x = tl.where(fw_conv_same(seq_ptr, t, lag, S, ss)[None, :], x, 0.0)
    return x


@triton.jit
def fw_conv_weight(w_ptr, d, lag, D, wd, ww, W: tl.constexpr, ACC: tl.constexpr):
    w = tl.load(w_ptr + d * wd + (W - 1 - lag) * ww, mask=d < D, other=0.0)
    return fw_widen(w, ACC)[:, None]


@triton.jit
def fw_conv_place(D, S, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr):
    """The batch, channels and first tile of a program; time runs fastest."""
    tiles = tl.maximum(tl.cdiv(S, BLOCK_S), 1)
    blocks = tl.cdiv(D, BLOCK_D)
    pid = tl.program_id(0).to(tl.int64)
    d = pid // tiles % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    t = pid % tiles * BLOCK_S + tl.arange(0, BLOCK_S)
    return pid // (tiles * blocks), d, t


@triton.jit
def fw_conv_forward(
    x_ptr, w_ptr, b_ptr, seq_ptr, init_ptr, y_ptr, final_ptr, g_ptr, D, S,
    xb, xd, xs, wd, ww, bd, sb, ss, ib, ic, it, yb, yd, ys, fb, fd, ft, gb, gd, gs,
    W: tl.constexpr, ACTIVATION: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The outputs; or, of their gradients g, those before the activation."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    batch, d, t = fw_conv_place(D, S, BLOCK_D, BLOCK_S)
    x_ptr += batch * xb
    if seq_ptr is not None:
        seq_ptr += batch * sb
    if init_ptr is not None:
        init_ptr += batch * ib
    y = tl.zeros((BLOCK_D, BLOCK_S), ACC)
    if W <= 16:
        for lag in tl.static_range(W):
            tap = fw_conv_tap(
                x_ptr, init_ptr, seq_ptr, d, t, lag, D, S, xd, xs, ic, it, ss, W, ACC
            )  # fmt: skip
            y += tap * fw_conv_weight(w_ptr, d, lag, D, wd, ww, W, ACC)
    else:
        for lag in range(W):
            tap = fw_conv_tap(
                x_ptr, init_ptr, seq_ptr, d, t, lag, D, S, xd, xs, ic, it, ss, W, ACC
            )  # fmt: skip
            y += tap * fw_conv_weight(w_ptr, d, lag, D, wd, ww, W, ACC)
    if b_ptr is not None:
        y += fw_widen(tl.load(b_ptr + d * bd, mask=d < D, other=0.0), ACC)[:, None]
    mask = (d < D)[:, None] & (t < S)[None, :]
    if g_ptr is None:
        y = fw_activate(y, ACTIVATION)
    else:
        g = tl.load(g_ptr + batch * gb + d[:, None] * gd + t[None, :] * gs, mask=mask, other=0.0)
        y = fw_widen(g, ACC) * fw_activate_grad(y, ACTIVATION)
    if seq_ptr is not None:
        own = tl.load(seq_ptr + t * ss, mask=t < S, other=-1)
        y = tl.where((own >= 0)[None, :], y, 0.0)
    at = batch * yb + d[:, None] * yd + t[None, :] * ys
    tl.store(y_ptr + at, fw_narrow(y, y_ptr.dtype.element_ty), mask=mask)
    if final_ptr is not None:  # noqa: SIM102  the second is decided as the kernel runs
        if tl.program_id(0) % tl.maximum(tl.cdiv(S, BLOCK_S), 1) == 0:
            fw_conv_final(
                x_ptr, init_ptr, seq_ptr, final_ptr + batch * fb, d, D, S,
                xd, xs, ic, it, ss, fd, ft, W, ACC, BLOCK_W,
            )  # fmt: skip


@triton.jit
def fw_conv_final(
    x_ptr, init_ptr, seq_ptr, final_ptr, d, D, S, xd, xs, ic, it, ss, fd, ft,
    W: tl.constexpr, ACC: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The last inputs, those of the last token's sequence."""
    k = tl.arange(0, BLOCK_W).to(tl.int64)
    t = S - (W - 1) + k
    last = fw_conv_input(x_ptr, init_ptr, d, t, D, S, xd, xs, ic, it, W, ACC)
    if seq_ptr is not None:
        last = tl.where(fw_conv_kept(seq_ptr, t, S, ss)[None, :], last, 0.0)
    at = d[:, None] * fd + k[None, :] * ft
    mask = (d < D)[:, None] & (k < W - 1)[None, :]
    tl.store(final_ptr + at, fw_narrow(last, final_ptr.dtype.element_ty), mask=mask)


@triton.jit
def fw_conv_kept(seq_ptr, u, S, ss):
    """Whether the times u are of the sequence whose final states are given out."""
    own = tl.load(seq_ptr + tl.maximum(u, 0) * ss, mask=(S > 0) & (u < S), other=0)
    last = tl.load(seq_ptr + (S - 1) * ss, mask=S > 0, other=0)
    return (own == last) & (last >= 0)


@triton.jit
def fw_conv_gradients(
    g_ptr, gf_ptr, x_ptr, w_ptr, seq_ptr, init_ptr, dx_ptr, dw_ptr, db_ptr, D, S, steps,
    gb, gd, gs, hb, hd, ht, xb, xd, xs, wd, ww, sb, ss, ib, ic, it, db, dd, ds,
    W: tl.constexpr, DOUBLE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The gradient of x, and a program's share of those of the weight and the bias.

    g is the gradient before the activation; a program takes `steps` tiles of time.
    """
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    batch, d, t = fw_conv_place(D, tl.cdiv(S, steps), BLOCK_D, BLOCK_S)
    share = batch * tl.cdiv(tl.cdiv(S, steps), BLOCK_S)
    share += tl.program_id(0) % tl.cdiv(tl.cdiv(S, steps), BLOCK_S)
    t = (t - tl.arange(0, BLOCK_S)) * steps + tl.arange(0, BLOCK_S)
    x_ptr += batch * xb
    g_ptr += batch * gb
    if seq_ptr is not None:
        seq_ptr += batch * sb
    if init_ptr is not None:
        init_ptr += batch * ib
    taps = tl.arange(0, BLOCK_W)
    dw = tl.zeros((BLOCK_D, BLOCK_W), ACC)
    dbias = tl.zeros((BLOCK_D, BLOCK_S), ACC)
    for _ in range(steps):
        mask = (d < D)[:, None] & (t < S)[None, :]
        here = fw_widen(
            tl.load(g_ptr + d[:, None] * gd + t[None, :] * gs, mask=mask, other=0.0), ACC
        )
        dbias += here
        dx = tl.zeros((BLOCK_D, BLOCK_S), ACC)
        for lag in range(W):
            if dx_ptr is not None:
                u = t + lag
                inside = (d < D)[:, None] & (u < S)[None, :]
                if seq_ptr is not None:
                    inside = inside & fw_conv_same(seq_ptr, u, lag, S, ss)[None, :]
                g = tl.load(g_ptr + d[:, None] * gd + u[None, :] * gs, mask=inside, other=0.0)
                dx += fw_widen(g, ACC) * fw_conv_weight(w_ptr, d, lag, D, wd, ww, W, ACC)
            if dw_ptr is not None:
                tap = fw_conv_tap(
                    x_ptr, init_ptr, seq_ptr, d, t, lag, D, S, xd, xs, ic, it, ss, W, ACC
                )  # fmt: skip
                found = tl.sum(here * tap, 1)
                dw += tl.where((taps == W - 1 - lag)[None, :], found[:, None], 0.0)
        if dx_ptr is not None:
            if gf_ptr is not None:
                k = t - S + (W - 1)
                inside = (d < D)[:, None] & ((k >= 0) & (t < S))[None, :]
                if seq_ptr is not None:
                    inside = inside & fw_conv_kept(seq_ptr, t, S, ss)[None, :]
                at = batch * hb + d[:, None] * hd + k[None, :] * ht
                dx += fw_widen(tl.load(gf_ptr + at, mask=inside, other=0.0), ACC)
            at = batch * db + d[:, None] * dd + t[None, :] * ds
            tl.store(dx_ptr + at, fw_narrow(dx, dx_ptr.dtype.element_ty), mask=mask)
        t += BLOCK_S
    if dw_ptr is not None:
        at = (share * D + d)[:, None] * W + taps[None, :]
        tl.store(dw_ptr + at, dw, mask=(d < D)[:, None] & (taps < W)[None, :])
    if db_ptr is not None:
        tl.store(db_ptr + share * D + d, tl.sum(dbias, 1), mask=d < D)


@triton.jit
def fw_conv_state_gradient(
    g_ptr, gf_ptr, w_ptr, seq_ptr, out_ptr, D, S,
    gb, gd, gs, hb, hd, ht, wd, ww, sb, ss, ob, od, ot,
    W: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The gradient of the initial states."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    blocks = tl.cdiv(D, BLOCK_D)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    k = tl.arange(0, BLOCK_W).to(tl.int64)
    t = k - (W - 1)
    if seq_ptr is not None:
        seq_ptr += batch * sb
    total = tl.zeros((BLOCK_D, BLOCK_W), ACC)
    if g_ptr is not None:
        for lag in range(W):
            u = t + lag
            inside = (d < D)[:, None] & ((u >= 0) & (u < S))[None, :]
            if seq_ptr is not None:
                inside = inside & fw_conv_same(seq_ptr, u, lag, S, ss)[None, :]
            at = batch * gb + d[:, None] * gd + u[None, :] * gs
            g = fw_widen(tl.load(g_ptr + at, mask=inside, other=0.0), ACC)
            total += g * fw_conv_weight(w_ptr, d, lag, D, wd, ww, W, ACC)
    if gf_ptr is not None:
        place = k - S
        inside = (d < D)[:, None] & ((place >= 0) & (t < 0))[None, :]
        if seq_ptr is not None:
            inside = inside & fw_conv_kept(seq_ptr, t, S, ss)[None, :]
        at = batch * hb + d[:, None] * hd + place[None, :] * ht
        total += fw_widen(tl.load(gf_ptr + at, mask=inside, other=0.0), ACC)
    at = batch * ob + d[:, None] * od + k[None, :] * ot
    mask = (d < D)[:, None] & (t < 0)[None, :]
    tl.store(out_ptr + at, fw_narrow(total, out_ptr.dtype.element_ty), mask=mask)
