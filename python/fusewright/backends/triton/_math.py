"""What kernels compute with: accumulators, and the activations with their derivatives."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ACTIVATIONS = {
    name: code
    for code, name in enumerate(
        ("none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "mish")
    )
}
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

NONE = tl.constexpr(0)
RELU = tl.constexpr(1)
GELU = tl.constexpr(2)
GELU_TANH = tl.constexpr(3)
SILU = tl.constexpr(4)
SIGMOID = tl.constexpr(5)
TANH = tl.constexpr(6)
MISH = tl.constexpr(7)


def is_double(x: Tensor) -> bool:
    """Whether kernels accumulate in float64 for x; otherwise in float32."""
    return x.dtype is torch.float64


def accumulator(x: Tensor) -> torch.dtype:
    """What kernels accumulate in for x."""
    return torch.float64 if is_double(x) else torch.float32


@triton.jit
def fw_widen(x, ACC: tl.constexpr):
    """To the accumulator; 16-bit types become float64 in two steps, as GPUs want it."""
    if INTERPRETED and x.dtype == tl.bfloat16:  # its own conversions are wrong
        return (
            (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True).to(ACC)
        )
    if x.dtype.primitive_bitwidth == 16:
        return x.to(tl.float32).to(ACC)
    return x.to(ACC)


@triton.jit
def fw_dot(a, b, acc, PRECISION: tl.constexpr):
    if INTERPRETED and a.dtype == tl.bfloat16:
        a = fw_widen(a, tl.float32)
        b = fw_widen(b, tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def fw_narrow(x, DTYPE: tl.constexpr):
    """From the accumulator, to the nearest."""
    if DTYPE.primitive_bitwidth == 16:
        x = x.to(tl.float32)
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        # adding half of what is cut off, or less where that would make a tie odd, rounds
        is_number = x == x  # noqa: PLR0124
        bits = tl.where(is_number, bits + 0x7FFF + ((bits >> 16) & 1), bits)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def fw_row_offset(row, size1, size2, stride0, stride1, stride2):
    """Where a row begins, its number counted over three sizes."""
    first = row // (size1 * size2)
    return first * stride0 + (row // size2) % size1 * stride1 + row % size2 * stride2


@triton.jit
def fw_column_offset(column, size, stride0, stride1):
    """Where a column stands in its row, its number counted over two sizes."""
    return column // size * stride0 + column % size * stride1


@triton.jit
def fw_sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def fw_sigmoid_grad(x):
    # even in x, so that the larger exponential is never needed
    e = tl.exp(-tl.abs(x))
    d = 1.0 + e
    return e / (d * d)


@triton.jit
def fw_tanh(x):
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    large = (1.0 - e) / (1.0 + e)
    # the quotient cancels near zero, where the continued fraction is exact after a few terms
    s = tl.minimum(x * x, 0.25)
    small = a / (1.0 + s / (3.0 + s / (5.0 + s / (7.0 + s / (9.0 + s / 11.0)))))
    t = tl.where(a < 0.25, small, large)
    return tl.where(x < 0, -t, t)


@triton.jit
def fw_clamp(x, bound: tl.constexpr):
    # keeps infinity times zero out of the formulas, and NaN in them
    return tl.where(x < -bound, -bound, tl.where(x > bound, bound, x))


@triton.jit
def fw_fast_sigmoid(x):
    """In float32, of approximate instructions; a division would take more than all of these."""
    d = 1.0 + tl.exp2(x * -1.44269504088896340736)
    return tl.rsqrt(d * d)


@triton.jit
def fw_fast_silu(x):
    return x * fw_fast_sigmoid(x)


@triton.jit
def fw_fast_silu_grad(x):
    s = fw_fast_sigmoid(x)
    return s + s * (x - x * s)


@triton.jit
def fw_activate(x, ACTIVATION: tl.constexpr):
    """Torch's definitions."""
    if ACTIVATION == RELU:
        return tl.where(x < 0, 0.0, x)
    if ACTIVATION == GELU:
        return 0.5 * x * (1.0 + tl.erf(x * 0.70710678118654752440))
    if ACTIVATION == GELU_TANH:
        # (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for negative u
        return x * fw_sigmoid(1.59576912160573071176 * x * (1.0 + 0.044715 * x * x))
    if ACTIVATION == SILU:
        return x / (1.0 + tl.exp(-x))
    if ACTIVATION == SIGMOID:
        return fw_sigmoid(x)
    if ACTIVATION == TANH:
        return fw_tanh(x)
    if ACTIVATION == MISH:
        # with e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2)
        e = tl.exp(tl.where(x > 40.0, 40.0, x))
        n = e * (e + 2.0)
        return x * (n / (n + 2.0))
    return x


@triton.jit
def fw_activate_16(x, ACTIVATION: tl.constexpr):
    """The same for results that are rounded to 16 bits, in fewer instructions."""
    if ACTIVATION == GELU:
        # gelu is x Φ(x) with logit Φ(x) = x q(x²): a polynomial for q, fitted up to |x| = 5.6
        t = tl.minimum(x * x, 31.36)
        q = 2.2435330e-8 * t - 1.7251121e-6
        q = q * t + 3.3974796e-5
        q = q * t + 8.8278026e-4
        q = q * t - 1.0695869e-1
        q = q * t - 2.3005755
        return x / (1.0 + tl.exp2(q * x))
    return fw_activate(x, ACTIVATION)


@triton.jit
def fw_activate_grad(x, ACTIVATION: tl.constexpr):
    """The derivative of `fw_activate` at x."""
    if ACTIVATION == RELU:
        return tl.where(x <= 0, 0.0, 1.0).to(x.dtype)
    if ACTIVATION == GELU:
        c = fw_clamp(x, 40.0)
        density = 0.39894228040143267794 * tl.exp(-0.5 * c * c)
        return 0.5 * (1.0 + tl.erf(c * 0.70710678118654752440)) + c * density
    if ACTIVATION == GELU_TANH:
        c = fw_clamp(x, 9.5)  # at the ends sigmoid is 1 or as good as 0
        square = c * c
        e = tl.exp(-1.59576912160573071176 * c * (1.0 + 0.044715 * square))
        s = 1.0 / (1.0 + e)
        slope = 1.59576912160573071176 * (1.0 + 0.134145 * square)
        return s * (1.0 + c * slope * e * s)
    if ACTIVATION == SILU:
        c = fw_clamp(x, 80.0)
        e = tl.exp(-c)
        s = 1.0 / (1.0 + e)
        return s * (1.0 + c * e * s)
    if ACTIVATION == SIGMOID:
        return fw_sigmoid_grad(x)
    if ACTIVATION == TANH:
        return 4.0 * fw_sigmoid_grad(x + x)
    if ACTIVATION == MISH:
        c = tl.where(x > 40.0, 40.0, x)
        e = tl.exp(c)
        n = e * (e + 2.0)
        d = n + 2.0
        return (n + 4.0 * (c * e) * (1.0 + e) / d) / d
    return tl.full(x.shape, 1.0, x.dtype)
