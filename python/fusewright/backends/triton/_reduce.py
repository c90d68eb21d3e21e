"""Sums of partial results, one row a program, always in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fusewright.backends.triton._launch import kernel
from fusewright.backends.triton._math import fw_narrow


@triton.jit
def fw_sum_rows(partial_ptr, out_ptr, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_R, BLOCK_C), partial_ptr.dtype.element_ty)
    for start in range(0, rows, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        total += tl.load(partial_ptr + at, mask=mask, other=0.0)
    result = tl.sum(total, 0)
    tl.store(out_ptr + column, fw_narrow(result, out_ptr.dtype.element_ty), mask=column < columns)


def sum_rows(partial: Tensor, like: Tensor) -> Tensor:
    """The sum of a contiguous `partial` over its first dimension, as a gradient of `like`."""
    result = like.new_empty(like.shape)
    columns = result.numel()
    if columns > 0:
        block = 32 if columns >= 4096 else 16
        grid = (triton.cdiv(columns, block),)
        kernel(fw_sum_rows)[grid](
            partial, result, partial.shape[0], columns, BLOCK_R=64, BLOCK_C=block, num_warps=4
        )
    return as_gradient(result, like)


def as_gradient(value: Tensor, like: Tensor) -> Tensor:
    """A contiguous value with the strides that a gradient of `like` has."""
    return value if like.is_contiguous() else torch.empty_like(like).copy_(value)
