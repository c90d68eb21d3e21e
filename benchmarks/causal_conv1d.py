"""causal_conv1d with SiLU against a padded, grouped F.conv1d."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case, Peer

WIDTH = 4
SHAPES = {
    "cpu": ((2, 2048, 2048), (8, 1024, 1024)),
    "cuda": ((2, 2048, 2048), (8, 4096, 4096), (1, 4096, 32768)),
}


def make(
    shape: tuple[int, int, int], dtype: torch.dtype, channel_last: bool
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(shape, dtype=dtype, device=device)
        if channel_last:
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        weight = torch.randn(shape[1], WIDTH, dtype=dtype, device=device, requires_grad=True)
        bias = torch.randn(shape[1], dtype=dtype, device=device, requires_grad=True)
        return x.requires_grad_(), weight, bias

    return inputs


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv1d(x, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=x.shape[1])
    return F.silu(y[..., : x.shape[2]])


def dao(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from causal_conv1d import causal_conv1d_fn

    y: Tensor = causal_conv1d_fn(x, weight, bias, activation="silu")
    return y


def cases(device: torch.device) -> Iterator[Case]:
    """The shapes of state-space models, in both layouts."""
    peers = {"causal-conv1d": Peer(dao)} if device.type == "cuda" else {}
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES.get(device.type, SHAPES["cpu"]):
            for channel_last in (False, True):
                size = shape[0] * shape[1] * shape[2] * dtype.itemsize
                yield Case(
                    op="causal_conv1d",
                    shape="x".join(map(str, shape)) + (" channel-last" if channel_last else ""),
                    dtype=dtype,
                    make=make(shape, dtype, channel_last),
                    ours=lambda x, w, b: fusewright.causal_conv1d(x, w, b, activation="silu"),
                    eager=eager,
                    bytes=2 * size,
                    bytes_backward=5 * size,
                    peers=peers,
                )
