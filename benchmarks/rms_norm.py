"""rms_norm against torch.nn.functional.rms_norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case, Peer

CPU_SHAPES = ((4096, 1024), (4096, 4096))
GPU_SHAPES = ((4096, 1024), (4096, 8192), (16384, 4096), (65536, 1024), (65536, 8192))


def make(
    rows: int, columns: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(rows, columns, dtype=dtype, device=device, requires_grad=True)
        return x, torch.randn(columns, dtype=dtype, device=device, requires_grad=True)

    return inputs


def make_with_residual(
    rows: int, columns: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x, weight = make(rows, columns, dtype)(device)
        return x, torch.randn_like(x).requires_grad_(), weight

    return inputs


def add_then_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.rms_norm(total, weight.shape, weight, 1e-6), total


# Liger's default writes the gradient over the output's, which the next sample would read; the bytes
# that move are the same.
IN_PLACE = False


def liger(x: Tensor, weight: Tensor) -> Tensor:
    from liger_kernel.ops import LigerRMSNormFunction

    y: Tensor = LigerRMSNormFunction.apply(x, weight, 1e-6, 0.0, "llama", IN_PLACE)
    return y


def liger_add(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    from liger_kernel.ops import LigerFusedAddRMSNormFunction

    y, total = LigerFusedAddRMSNormFunction.apply(x, residual, weight, 1e-6, 0.0, "llama", IN_PLACE)
    return y, total


def cases(device: torch.device) -> Iterator[Case]:
    """The shapes of transformers; on a GPU also with the sum of a residual."""
    gpu = device.type != "cpu"
    for dtype in (torch.bfloat16,) if gpu else (torch.float32, torch.bfloat16):
        for rows, columns in GPU_SHAPES if gpu else CPU_SHAPES:
            size = rows * columns * dtype.itemsize
            yield Case(
                op="rms_norm",
                shape=f"{rows}x{columns}",
                dtype=dtype,
                make=make(rows, columns, dtype),
                ours=lambda x, w: fusewright.rms_norm(x, w, eps=1e-6),
                eager=lambda x, w: F.rms_norm(x, w.shape, w, 1e-6),
                bytes=2 * size,
                bytes_backward=5 * size,
                peers={"liger": Peer(liger)} if device.type == "cuda" else {},
            )
            if gpu:
                yield Case(
                    op="rms_norm",
                    shape=f"{rows}x{columns} add",
                    dtype=dtype,
                    make=make_with_residual(rows, columns, dtype),
                    ours=lambda x, r, w: fusewright.rms_norm(x, w, residual=r, eps=1e-6),
                    eager=add_then_norm,
                    bytes=4 * size,
                    bytes_backward=8 * size,
                    peers={"liger": Peer(liger_add)},
                )
