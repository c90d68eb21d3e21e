"""One decoding step, state and all, against a concatenation and a product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case, Peer

WIDTH = 4
SHAPES = {"cpu": ((1, 2048), (64, 2048)), "cuda": ((64, 4096), (128, 4096), (256, 4096))}


def make(
    batch: int, channels: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        return (
            torch.randn(batch, channels, **options),
            torch.randn(batch, channels, WIDTH - 1, **options),
            torch.randn(channels, WIDTH, **options),
            torch.randn(channels, **options),
        )

    return inputs


def ours(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return fusewright.causal_conv1d_update(x, state, weight, bias, "silu")


def eager(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    full = torch.cat([state, x.unsqueeze(-1)], -1)
    state.copy_(full[..., 1:])
    return F.silu((full * weight).sum(-1) + bias)


def dao(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from causal_conv1d import causal_conv1d_update

    y: Tensor = causal_conv1d_update(x, state, weight, bias, "silu")
    return y


def cases(device: torch.device) -> Iterator[Case]:
    """Batches of decoding; every provider moves a state of its own on, which is verified, too."""
    peers = {"causal-conv1d": Peer(dao)} if device.type == "cuda" else {}
    for dtype in (torch.float32, torch.bfloat16):
        for batch, channels in SHAPES.get(device.type, SHAPES["cpu"]):
            yield Case(
                op="causal_conv1d_update",
                shape=f"{batch}x{channels}",
                dtype=dtype,
                make=make(batch, channels, dtype),
                ours=ours,
                eager=eager,
                bytes=batch * channels * dtype.itemsize * (2 + 2 * (WIDTH - 1)),
                bytes_backward=None,
                peers=peers,
            )
