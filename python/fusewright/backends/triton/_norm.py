"""layer_norm and rms_norm: how rows are given to programs, and the calls of the kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusewright.backends.triton._launch import kernel, none_like, power_of_2, processors
from fusewright.backends.triton._math import ACTIVATIONS, accumulator, is_double
from fusewright.backends.triton._norm_kernels import (
    fw_norm_backward,
    fw_norm_backward_long,
    fw_norm_forward,
    fw_norm_forward_long,
)
from fusewright.backends.triton._reduce import sum_rows
from fusewright.backends.triton._rows import as_rows

# The longest row that a program holds in registers, and the piece that it takes of a longer one.
_FORWARD_ROW, _BACKWARD_ROW, _PIECE = 32768, 16384, 8192
_LONGEST_INTERPRETED = 4096


class Tile(NamedTuple):
    """How many rows and columns a program holds, and on how many warps."""

    rows: int
    columns: int
    warps: int


def _tile(columns: int, limit: int, each: int, most: int, x: Tensor) -> Tile | None:
    """About `each` elements a thread, several short rows at once; None for a row past the limit.

    Args:
        most: so many warps, past which a thread takes 32 elements.
    """
    if x.device.type != "cuda":
        limit = _LONGEST_INTERPRETED
    if columns > limit:
        return None
    block = power_of_2(columns)
    rows = max(1, 2048 // block)
    warps = min(rows * block // (32 * each), max(most, block // 1024))
    return Tile(rows, block, warps)


def _forward_each(centred: bool, columns: int, residual: Tensor | None) -> int:
    """How many elements a thread of the forward has, as measured on an H200.

    32 in place of 16 keep more rows on their way: 8 % with a residual at 1024 columns, 4 with two
    sums at 8192; 16 are faster by 4 with two sums over short rows that fill their tile.
    """
    if residual is not None:
        return 32 if centred or columns <= 1024 else 16
    short = columns <= 4096 and columns == power_of_2(columns)
    return 32 if centred and not short else 16


def forward(
    centred: bool,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float = 0.0,
    round_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the sum with the residual, mean and rstd."""
    lead = x.shape[: x.dim() - norm_dims]
    y = x.new_empty(x.shape)
    total = none_like(x) if residual is None else residual.new_empty(x.shape)
    rstd = x.new_empty(lead, dtype=accumulator(x))
    mean = torch.empty_like(rstd) if centred else rstd
    if x.numel() == 0:
        return y, total, mean, rstd
    view = as_rows(x.shape, norm_dims, [x, residual])
    tile = _tile(view.columns, _FORWARD_ROW, _forward_each(centred, view.columns, residual), 8, x)
    rows, columns, warps = tile or Tile(1, _PIECE, 16)
    function = fw_norm_forward_long if tile is None else fw_norm_forward
    full = {} if tile is None else {"FULL": view.columns == columns}
    kernel(function)[(-(-view.rows // rows),)](
        *view.tensors,
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
        y,
        None if residual is None else total,
        mean,
        rstd,
        view.rows,
        view.columns,
        *view.sizes,
        *view.strides[0],
        *view.strides[1],
        EPS=eps,
        OFFSET=weight_offset,
        ACTIVATION=ACTIVATIONS[activation],
        CENTRED=centred,
        ROUND=round_first,
        WIDE=view.wide,
        DOUBLE=is_double(x),
        BLOCK_R=rows,
        BLOCK_N=columns,
        **full,
        num_warps=warps,
    )
    return y, total, mean, rstd


def backward(
    centred: bool,
    grad_y: Tensor | None,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm_dims: int,
    activation: str,
    needs: tuple[bool, bool, bool],
    weight_offset: float = 0.0,
    round_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, of the weight and of the bias that `needs` asks for."""
    wants_x = needs[0]
    wants_weight = needs[1] and weight is not None
    wants_bias = needs[2] and bias is not None
    if grad_y is None or x.numel() == 0:
        return (
            _passed_on(x, grad_total) if wants_x else none_like(x),
            torch.zeros_like(weight) if wants_weight and weight is not None else none_like(x),
            torch.zeros_like(bias) if wants_bias and bias is not None else none_like(x),
        )
    grad_x = torch.empty_like(x) if wants_x else none_like(x)
    view = as_rows(x.shape, norm_dims, [x, grad_y, grad_total, grad_x if wants_x else None])
    dense = view.tensors[3]
    if wants_x and dense is not grad_x:  # too irregular: written densely, then copied
        dense = view.tensors[3] = x.new_empty(x.shape)
    tile = _tile(view.columns, _BACKWARD_ROW, 16, 16, x)
    rows, columns, warps = tile or Tile(1, _PIECE, 16)
    programs = _programs(centred, x, view.rows, rows, warps)
    partial = x.new_empty((2, programs, view.columns), dtype=accumulator(x))
    function = fw_norm_backward_long if tile is None else fw_norm_backward
    kernel(function)[(programs,)](
        *view.tensors,
        None if weight is None else weight.contiguous(),
        None if bias is None else bias.contiguous(),
        mean,
        rstd,
        partial[0] if wants_weight else None,
        partial[1] if wants_bias else None,
        view.rows,
        view.columns,
        *view.sizes,
        *view.strides[0],
        *view.strides[1],
        *view.strides[2],
        *view.strides[3],
        OFFSET=weight_offset,
        ACTIVATION=ACTIVATIONS[activation],
        CENTRED=centred,
        ROUND=round_first,
        WIDE=view.wide,
        DOUBLE=is_double(x),
        BLOCK_R=rows,
        BLOCK_N=columns,
        num_warps=warps,
    )
    if dense is not None and dense is not grad_x:
        grad_x.copy_(dense)
    return (
        grad_x,
        sum_rows(partial[0], weight) if wants_weight and weight is not None else none_like(x),
        sum_rows(partial[1], bias) if wants_bias and bias is not None else none_like(x),
    )


def _passed_on(x: Tensor, grad_total: Tensor | None) -> Tensor:
    return torch.zeros_like(x) if grad_total is None else torch.empty_like(x).copy_(grad_total)


def _programs(centred: bool, x: Tensor, rows: int, rows_a_tile: int, warps: int) -> int:
    """As many as registers admit at once, unless the partial sums would outweigh the rows."""
    filling = processors(x) * max(1, (16 if centred else 24) // warps)
    worthwhile = max(processors(x), rows // 12)
    return min(-(-rows // rows_a_tile), filling, worthwhile)
