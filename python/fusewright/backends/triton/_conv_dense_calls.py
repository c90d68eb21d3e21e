"""causal_conv1d where time or channels are dense: how much a program takes, and the calls."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._conv_channels import (
    fw_conv_channels,
    fw_conv_channels_gradients,
)
from fusewright.backends.triton._conv_dense import fw_conv_dense, fw_conv_dense_gradients
from fusewright.backends.triton._launch import kernel, none_like, power_of_2, processors
from fusewright.backends.triton._math import accumulator
from fusewright.backends.triton._reduce import sum_rows

# How many tiles a program of the forward takes one after the other, and of how many for each
# processor on: fewer would leave some processors idle at the end.
_STEPS, _MANY = 4, 256


def strides(t: Tensor | None, count: int) -> tuple[int, ...]:
    return (0,) * count if t is None else t.stride()


def _chunks(x: Tensor, width: int, each: int, most: int) -> dict[str, int]:
    """What a program of the dense kernels takes of a row: chunks of 16 bytes, `each` a thread."""
    chunk = 16 // x.element_size()
    count = min(power_of_2(triton.cdiv(x.shape[2], chunk)), most)
    warps = max(1, min(4, count // (32 * each)))
    return {"W": width, "N": count, "CHUNK": chunk, "num_warps": warps}


def _tiles(x: Tensor, width: int) -> tuple[dict[str, int], int]:
    """A program's tile of the forward, and how many of them it takes.

    16-bit types have twice the arithmetic a byte: where tiles are many, a program takes four, whose
    loads hide behind that of the tile before.
    """
    ahead = _chunks(x, width, 1, 128)
    tiles = triton.cdiv(x.shape[2], ahead["N"] * ahead["CHUNK"])
    many = tiles >= _STEPS and x.shape[0] * x.shape[1] * tiles >= _MANY * processors(x)
    if x.element_size() == 2 and many:
        return ahead, _STEPS
    return _chunks(x, width, 2, 256), 1


def dense_dim(width: int, *tensors: Tensor) -> int | None:
    """The dimension (time, or else channels) along which the dense kernels take these, or None.

    They keep the taps in registers: along the time these reach one chunk back.
    """
    x = tensors[0]
    if x.numel() == 0 or not 2 <= x.element_size() <= 4 or x.shape[2] < max(width, 2):
        return None
    if width - 1 <= 16 // x.element_size() and all(t.stride(2) == 1 for t in tensors):
        return 2
    return 1 if width <= 4 and all(t.stride(1) == 1 for t in tensors) else None


def _pieces(
    x: Tensor, width: int, ahead: int, waves: int, most: int
) -> tuple[int, int, dict[str, int]]:
    """The length of a program's piece of time, the number of them, and what else it takes.

    A thread has 8 bytes of channels.
    """
    batch, channels, length = x.shape
    block = min(power_of_2(channels), 128 * 8 // x.element_size())
    wanted = max(1, waves * processors(x) // (batch * triton.cdiv(channels, block)))
    piece = min(max(triton.cdiv(length, wanted), min(length, 16)), most)
    piece = triton.cdiv(piece, ahead) * ahead
    options = {"W": width, "BLOCK_D": block, "AHEAD": ahead}
    options["num_warps"] = max(1, min(4, block // 128))
    return piece, batch * triton.cdiv(length, piece), options


def dense_forward(
    dim: int, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, y: Tensor
) -> None:
    batch, channels, length = x.shape
    parameters = (*weight.stride(), *strides(bias, 1))
    if dim == 2:
        options, steps = _tiles(x, weight.shape[1])
        tiles = triton.cdiv(length, options["N"] * options["CHUNK"])
        kernel(fw_conv_dense)[(batch * channels * triton.cdiv(tiles, steps),)](
            x,
            weight,
            bias,
            y,
            channels,
            length,
            steps,
            *x.stride()[:2],
            *parameters,
            *y.stride()[:2],
            USE_SILU=silu,
            **options,
        )
        return
    piece, shares, options = _pieces(x, weight.shape[1], 8, 4, 128 // x.element_size())
    kernel(fw_conv_channels)[(shares * triton.cdiv(channels, options["BLOCK_D"]),)](
        x,
        weight,
        bias,
        y,
        channels,
        length,
        piece,
        *x.stride()[::2],
        *parameters,
        *y.stride()[::2],
        USE_SILU=silu,
        **options,
    )


def dense_backward(
    dim: int,
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, length = x.shape
    if dim == 2:
        # 16 tokens a thread: the W - 1 more that it computes weigh less then
        options = _chunks(x, weight.shape[1], 1, 128) | {"CHUNKS": x.element_size()}
        tiles = triton.cdiv(length, options["N"] * 16)
        wanted = triton.cdiv(32 * processors(x), batch * channels)
        piece = triton.cdiv(tiles, min(wanted, tiles))  # tiles
        shares = batch * triton.cdiv(tiles, piece)
        programs = shares * channels
    else:
        piece, shares, options = _pieces(x, weight.shape[1], 4, 8, length)
        programs = shares * triton.cdiv(channels, options["BLOCK_D"])
    dtype = accumulator(x)
    grad_x = torch.empty_like(x) if needs & 1 else None
    dw = x.new_empty((shares, channels, weight.shape[1]), dtype=dtype) if needs & 2 else None
    db = x.new_empty((shares, channels), dtype=dtype) if needs & 4 and bias is not None else None
    outer = slice(None, 2) if dim == 2 else slice(None, None, 2)  # the strides that are not 1
    kernel(fw_conv_dense_gradients if dim == 2 else fw_conv_channels_gradients)[(programs,)](
        grad_y,
        x,
        weight,
        bias,
        grad_x,
        dw,
        db,
        channels,
        length,
        piece,
        *grad_y.stride()[outer],
        *x.stride()[outer],
        *weight.stride(),
        *strides(bias, 1),
        *strides(grad_x, 3)[outer],
        USE_SILU=silu,
        **options,
    )
    return (
        none_like(x) if grad_x is None else grad_x,
        none_like(x) if dw is None else sum_rows(dw, weight),
        none_like(x) if db is None or bias is None else sum_rows(db, bias),
        none_like(x),
    )
