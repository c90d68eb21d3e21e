"""rms_norm against torch.nn.functional.rms_norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case


def make(
    rows: int, columns: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x = torch.randn(rows, columns, dtype=dtype, device=device, requires_grad=True)
        return x, torch.randn(columns, dtype=dtype, device=device, requires_grad=True)

    return inputs


def cases(device: torch.device) -> Iterator[Case]:
    """The shapes of transformers."""
    for dtype in (torch.float32, torch.bfloat16):
        for rows, columns in ((4096, 1024), (4096, 4096)):
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
            )
