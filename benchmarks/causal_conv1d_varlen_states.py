"""States of a packed batch against a loop over its sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import fusewright
from fusewright.bench import Case

STATE = 3


def make(
    sequences: int, length: int, channels: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(sequences * length, channels, dtype=dtype, device=device)
        return x, torch.arange(0, sequences * length + 1, length, device=device).int()

    return inputs


def eager(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    ends = cu_seqlens[1:].long()
    at = ends[:, None] - STATE + torch.arange(STATE, device=x.device)
    keep = (at >= cu_seqlens[:-1, None]).unsqueeze(-1)
    return (x[at.clamp(min=0)] * keep).transpose(1, 2).contiguous()


def cases(device: torch.device) -> Iterator[Case]:
    """Prompts of equal length."""
    for dtype in (torch.float32, torch.bfloat16):
        for sequences, length in ((8, 128), (64, 64)):
            yield Case(
                op="causal_conv1d_varlen_states",
                shape=f"{sequences}x{length}x2048",
                dtype=dtype,
                make=make(sequences, length, 2048, dtype),
                ours=lambda x, c: fusewright.causal_conv1d_varlen_states(x, c, STATE),
                eager=eager,
                bytes=2 * sequences * STATE * 2048 * dtype.itemsize,
                bytes_backward=None,
            )
