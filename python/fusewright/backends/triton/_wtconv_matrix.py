"""The base's and the first level's filters by matrix units, for images of 16 bits.

A strip of columns is written, from a window of columns around it. Where the rows of pixels stand in
pairs, a pair of rows of the strip is a product: of K pairs of rows of the window, each with a
matrix that holds the weights of the phases (see `_wtconv_phases`) on its diagonals.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fusewright.backends.triton._math import fw_dot, fw_narrow, fw_widen
from fusewright.backends.triton._wtconv_blocks import wt_jit
from fusewright.backends.triton._wtconv_kernels import fw_wt_fill
from fusewright.backends.triton._wtconv_phases import fw_wt_phase_at


@triton.jit
def fw_wt_pairs(
    ptr, i, first, count, H, W, sh, SHIFT: tl.constexpr, COLUMNS: tl.constexpr, VECTOR: tl.constexpr
):
    """`COLUMNS` pixels from column `first` of the two rows of pair i + SHIFT, one behind the other.

    `ptr` stands at the beginning of the pair i, of which `count` is true where there is one.
    """
    k = tl.arange(0, 2 * COLUMNS)
    s = k // COLUMNS
    column = first + k % COLUMNS
    row = 2 * (i + SHIFT)[:, None] + s[None, :]
    width = W // VECTOR * VECTOR  # seen to be a multiple
    within = ((column >= 0) & (column < width))[None, :]
    mask = within & (row >= 0) & (row < H) & count[:, None]
    at = ptr[:, None] + ((2 * SHIFT + s) * sh + column)[None, :]
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def fw_wt_plane(ptr, n, c, i, sn, sc, sh, VECTOR: tl.constexpr):
    """Where the pair of rows i begins; that vectors are aligned must be seen here."""
    return ptr + VECTOR * (
        n * (sn // VECTOR) + c * (sc // VECTOR) + 2 * i.to(tl.int64) * (sh // VECTOR)
    )


@wt_jit
def fw_wt_product(
    x_ptr, deeper_ptr, y_ptr, phases_ptr, factor_ptr, bb_ptr, bs_ptr, N, C, H, W, steps,
    xn, xc, xh, yn, yc, yh,
    K: tl.constexpr, PAD: tl.constexpr, STRIP: tl.constexpr, WINDOW: tl.constexpr,
    LEFT: tl.constexpr, X_VECTOR: tl.constexpr, Y_VECTOR: tl.constexpr, BLOCK_M: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """y of a strip, of `steps` times `BLOCK_M` pairs of rows of any images."""
    h, w = tl.cdiv(H, 2), tl.cdiv(W, 2)
    strips = tl.cdiv(W, STRIP)
    pid = tl.program_id(0).to(tl.int64)
    first = (pid % strips).to(tl.int32) * STRIP
    c = pid // strips % C
    start = (pid // (strips * C)).to(tl.int32) * steps * BLOCK_M
    xh = xh // X_VECTOR * X_VECTOR
    yh = yh // Y_VECTOR * Y_VECTOR
    k = tl.arange(0, 2 * WINDOW)[:, None]
    o = tl.arange(0, 2 * STRIP)[None, :]
    q = o % 2
    d = k % WINDOW - LEFT - (o % STRIP - q) + 2 * PAD
    at = phases_ptr + c * (16 * K * K) + fw_wt_phase_at(0, k // WINDOW, o // STRIP, q, d, K)
    matrices = ()
    for y in tl.static_range(K):
        matrices = matrices + (tl.load(at + 16 * K * y, mask=(d >= 0) & (d < 2 * K), other=0.0),)
    factor = tl.load(factor_ptr + c)
    bias = 0.0
    if bb_ptr is not None:
        bias = fw_widen(tl.load(bb_ptr + c), tl.float32) * fw_widen(tl.load(bs_ptr + c), tl.float32)
    column = first + o % STRIP
    for step in tl.range(0, steps, num_stages=1):  # copies past the cache are slower
        m = start + step * BLOCK_M + tl.arange(0, BLOCK_M)
        n, i = m // h, m % h
        exists = n < N
        n = n.to(tl.int64)
        pairs = fw_wt_plane(x_ptr, n, c, i, xn, xc, xh, X_VECTOR)
        rows = ()
        if AHEAD:
            for y in tl.static_range(K):
                rows = rows + (
                    fw_wt_pairs(
                        pairs, i, first - LEFT, exists, H, W, xh, y - PAD, WINDOW, X_VECTOR
                    ),
                )  # fmt: skip
        total = tl.zeros((BLOCK_M, 2 * STRIP), tl.float32)
        for y in tl.static_range(K):
            if not AHEAD:
                x = fw_wt_pairs(
                    pairs, i, first - LEFT, exists, H, W, xh, y - PAD, WINDOW, X_VECTOR
                )  # fmt: skip
            else:
                x = rows[y]
            total = fw_dot(x, matrices[y], total, "ieee")
        total = total * factor + bias
        row = 2 * i[:, None] + o // STRIP
        inside = exists[:, None] & (column < W // Y_VECTOR * Y_VECTOR) & (row < H)
        if deeper_ptr is not None:
            deep = deeper_ptr + (((n * C + c) * h + i) * w)[:, None] + column // 2
            total += tl.load(deep, mask=inside, other=0.0) * 0.5
        out = fw_wt_plane(y_ptr, n, c, i, yn, yc, yh, Y_VECTOR)[:, None] + o // STRIP * yh + column
        tl.store(out, fw_narrow(total, y_ptr.dtype.element_ty), mask=inside)


@wt_jit
def fw_wt_gram(
    x_ptr, g_ptr, out_ptr, N, C, H, W, steps, shares, xn, xc, xh, gn, gc, gh,
    K: tl.constexpr, PAD: tl.constexpr, STRIP: tl.constexpr, WINDOW: tl.constexpr,
    LEFT: tl.constexpr, ORIGIN: tl.constexpr, X_VECTOR: tl.constexpr, G_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program's share of the gradients of the phases' weights, and of the sum of gradients.

    Products of all pixels of a pair of rows with all of K others are summed up; those of one phase
    and distance stand on a diagonal. The first strip begins `ORIGIN` left of the image.
    """
    h = tl.cdiv(H, 2)
    strips = tl.cdiv(W + ORIGIN, STRIP)
    pid = tl.program_id(0).to(tl.int64)
    share = pid % shares
    c = pid // shares
    first = (share % strips).to(tl.int32) * STRIP - ORIGIN
    start = (share // strips).to(tl.int32) * steps * BLOCK_M
    xh = xh // X_VECTOR * X_VECTOR
    gh = gh // G_VECTOR * G_VECTOR
    sums = fw_wt_fill(tl.zeros((2 * STRIP, 2 * WINDOW), tl.float32), K)
    own = tl.zeros((BLOCK_M, 2 * STRIP), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        m = start + step * BLOCK_M + tl.arange(0, BLOCK_M)
        n, i = m // h, m % h
        exists = n < N
        n = n.to(tl.int64)
        at = fw_wt_plane(g_ptr, n, c, i, gn, gc, gh, G_VECTOR)
        g = fw_wt_pairs(at, i, first, exists, H, W, gh, 0, STRIP, G_VECTOR)
        own += fw_widen(g, tl.float32)
        g = tl.trans(g)
        at = fw_wt_plane(x_ptr, n, c, i, xn, xc, xh, X_VECTOR)
        rows = ()
        for y in tl.static_range(K):
            rows = rows + (
                fw_wt_pairs(at, i, first - LEFT, exists, H, W, xh, y - PAD, WINDOW, X_VECTOR),
            )
        many = ()
        for y in tl.static_range(K):
            many = many + (fw_dot(g, rows[y], sums[y], "ieee"),)
        sums = many
    o = tl.arange(0, 2 * STRIP)[:, None]
    e = tl.arange(0, 2 * BLOCK_D)[None, :]
    d = e % BLOCK_D
    k = d - 2 * PAD + LEFT + o % STRIP // 2 * 2
    exists = (k >= 0) & (k < WINDOW) & (d < 2 * K)
    k = e // BLOCK_D * WINDOW + tl.where(exists, k, 0)
    p = tl.arange(0, 2)[:, None, None]
    q = tl.arange(0, 2)[None, :, None]
    e = tl.arange(0, 2 * BLOCK_D)[None, None, :]
    out = out_ptr + (share * C + c) * (16 * K * K + 1)
    for y in tl.static_range(K):
        diagonals = tl.where(exists, tl.gather(sums[y], k, 1), 0.0)
        total = tl.sum(tl.reshape(diagonals, (2, STRIP // 2, 2, 2 * BLOCK_D)), 1)
        at = fw_wt_phase_at(y, e // BLOCK_D, p, q, e % BLOCK_D, K)
        tl.store(out + at, total, mask=e % BLOCK_D < 2 * K)
    tl.store(out + 16 * K * K, tl.sum(tl.sum(own, 1), 0))
