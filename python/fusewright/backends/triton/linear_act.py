"""Linear layer with a fused activation in Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton import _matmul_tma
from fusewright.backends.triton._launch import kernel, none_like, processors
from fusewright.backends.triton._math import (
    ACTIVATIONS,
    accumulator,
    fw_activate_grad,
    fw_narrow,
    fw_widen,
    is_double,
)
from fusewright.backends.triton._matmul import matmul
from fusewright.backends.triton._reduce import sum_rows


def linear_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
) -> tuple[Tensor, Tensor]:
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    pre = torch.empty_like(y) if keep and activation != "none" else None
    flat = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(_rows(x), x.shape[-1])
    matmul(
        flat,
        weight.to(x.dtype).t(),
        y.view(flat.shape[0], weight.shape[0]),
        None if bias is None else bias.to(x.dtype).contiguous(),
        None if pre is None else pre.view(flat.shape[0], weight.shape[0]),
        ACTIVATIONS[activation],
    )
    return y, none_like(x) if pre is None else pre


def stays_whole(name: str, *args: Any) -> bool:
    """Whether a traced graph keeps the call of the operator, which then runs as without a graph.

    So it is where descriptors serve. They take memory from an allocator that every launch looks up
    in its thread; graphs record no allocator, and of those who run them only some set one.
    """
    x, weight = args[:2] if name == "linear_act" else args[1:3]
    return _matmul_tma.suits(x, _rows(x), *weight.shape)


def _rows(x: Tensor) -> int:
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return rows


@triton.jit
def fw_linear_slope(
    g_ptr, pre_ptr, slope_ptr, partial_ptr, rows, columns, g0, g1,
    ACTIVATION: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation, and its column sums over a program's tiles of rows."""
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    column = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    sums = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    first = tl.program_id(0).to(tl.int64)
    for tile in range(first, tl.cdiv(rows, BLOCK_R), tl.num_programs(0)):
        row = tile * BLOCK_R + tl.arange(0, BLOCK_R)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        g = tl.load(g_ptr + row[:, None] * g0 + column[None, :] * g1, mask=mask, other=0.0)
        g = fw_widen(g, ACC)
        at = row[:, None] * columns + column[None, :]
        if pre_ptr is not None:
            pre = fw_widen(tl.load(pre_ptr + at, mask=mask, other=0.0), ACC)
            g *= fw_activate_grad(pre, ACTIVATION)
        if slope_ptr is not None:
            tl.store(slope_ptr + at, fw_narrow(g, slope_ptr.dtype.element_ty), mask=mask)
        sums += g
    if partial_ptr is not None:
        own = tl.program_id(0).to(tl.int64) * columns + column
        tl.store(partial_ptr + own, tl.sum(sums, 0), mask=column < columns)


def linear_act_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pre: Tensor,
    activation: str,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over the output's gradient, then a product for each gradient.

    The derivative of the activation is not computed as a product loads its operand: every block
    of columns would compute it again.
    """
    columns, inner = weight.shape
    rows = _rows(x)
    w = weight.to(x.dtype)
    flat = x.reshape(rows, inner) if x.numel() else x.new_empty(rows, inner)
    grad = (
        grad_y.to(x.dtype).reshape(rows, columns) if grad_y.numel() else x.new_empty(rows, columns)
    )
    wants_bias = bool(needs & 4) and bias is not None
    slope, partial = grad, None
    saved: Tensor | None = None
    if activation != "none":
        saved = pre
        if pre.numel() != grad.numel():  # was not kept
            saved = x.new_empty(rows, columns)
            matmul(flat, w.t(), saved, None if bias is None else bias.to(x.dtype).contiguous())
        slope = x.new_empty(rows, columns)
    if grad.numel() > 0 and (activation != "none" or wants_bias):
        programs = min(triton.cdiv(rows, 16), max(1, 4 * processors(x) * 128 // columns))
        partial = x.new_empty((programs, columns), dtype=accumulator(x)) if wants_bias else None
        kernel(fw_linear_slope)[(programs, triton.cdiv(columns, 128))](
            grad,
            saved,
            None if saved is None else slope,
            partial,
            rows,
            columns,
            *grad.stride(),
            ACTIVATION=ACTIVATIONS[activation],
            DOUBLE=is_double(x),
            BLOCK_R=16,
            BLOCK_C=128,
            num_warps=4,
        )
    grad_x, grad_weight, grad_bias = none_like(x), none_like(x), none_like(x)
    if needs & 1:
        grad_x = torch.empty_like(x)
        dense = grad_x if grad_x.is_contiguous() else x.new_empty(x.shape)
        matmul(slope, w, dense.view(rows, inner))
        if dense is not grad_x:
            grad_x.copy_(dense)
    if needs & 2:
        grad_weight = torch.empty_like(weight)
        matmul(slope.t(), flat, grad_weight)
    if wants_bias and bias is not None:
        grad_bias = torch.zeros_like(bias) if partial is None else sum_rows(partial, bias)
    return grad_x, grad_weight, grad_bias
