"""What the tests of the CPU backend's cache of results share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fusewright as fw
from fusewright.backends import cpu

HUGE = 2**21  # bytes of a huge page
ROWS, COLUMNS = 2048, 1024  # 8 MiB of float32, the least that is kept

MARKS = [
    pytest.mark.skipif(
        cpu.BACKEND.error is not None or cpu.cache_limit() == 0,
        reason="no CPU kernels, or no cache of results: off Linux, or before torch 2.11",
    ),
    pytest.mark.usefixtures("empty_result_cache"),
]


def norm(rows: int = ROWS, x: Tensor | None = None) -> Tensor:
    """A result of `rows` · 4 KiB."""
    return fw.rms_norm(torch.randn(rows, COLUMNS) if x is None else x, backend="cpu")
