"""layer_norm with ReLU against its two calls in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case, Peer

CPU_SHAPES = ((4096, 1024), (4096, 4096))
GPU_SHAPES = ((4096, 1024), (4096, 8192), (16384, 4096), (65536, 1024), (65536, 8192))

RELU_SHAPE = (16384, 8192)


def make(
    rows: int, columns: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(rows, columns, dtype=dtype, device=device, requires_grad=True)
        parameters = torch.randn(2, columns, dtype=dtype, device=device)
        weight, bias = (p.clone().requires_grad_() for p in parameters)
        return x, weight, bias

    return inputs


def liger(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from liger_kernel.ops import LigerLayerNormFunction

    y: Tensor = LigerLayerNormFunction.apply(x, weight, bias, 1e-5)
    return y


def cases(device: torch.device) -> Iterator[Case]:
    """The shapes of transformers; on a GPU without the activation, and one with."""
    gpu = device.type != "cpu"
    for dtype in (torch.bfloat16,) if gpu else (torch.float32, torch.bfloat16):
        for rows, columns in (*GPU_SHAPES, RELU_SHAPE) if gpu else CPU_SHAPES:
            size = rows * columns * dtype.itemsize
            if gpu:
                yield Case(
                    op="layer_norm",
                    shape=f"{rows}x{columns}",
                    dtype=dtype,
                    make=make(rows, columns, dtype),
                    ours=fusewright.layer_norm,
                    eager=lambda x, w, b: F.layer_norm(x, w.shape, w, b),
                    bytes=2 * size,
                    bytes_backward=5 * size,
                    peers={"liger": Peer(liger)},
                )
                if (rows, columns) != RELU_SHAPE:
                    continue
            yield Case(
                op="layer_norm",
                shape=f"{rows}x{columns} relu",
                dtype=dtype,
                make=make(rows, columns, dtype),
                ours=lambda x, w, b: fusewright.layer_norm(x, w, b, activation="relu"),
                eager=lambda x, w, b: F.relu(F.layer_norm(x, w.shape, w, b)),
                bytes=2 * size,
                bytes_backward=5 * size,
            )
