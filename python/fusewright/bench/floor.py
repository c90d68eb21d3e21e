"""The floor of a row: what its bytes and its arithmetic cost at least, measured in the same run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

_SIZES = (512, 1024, 2048, 4096, 8192)  # of the square matrix products
_PATIENCE = 0.1  # s; no larger product after one that took as long


def copy_calls(bytes_moved: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Copies that read and write as many bytes in all, between tensors that exist.

    They are timed among the rivals of the row, and the faster one counts: on a GPU a large copy
    is left to the driver, which can be slower than a kernel. Nothing is allocated in them, so a
    rival that allocates its output pays for fresh pages on top.
    """
    source = torch.randn(max(bytes_moved // 8, 1), device=device)
    target = torch.zeros_like(source)
    return {"copy": lambda: target.copy_(source), "kernel": lambda: torch.neg(source, out=target)}


@functools.cache
def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the best of some square matrix products in torch."""
    best = 0.0
    for n in _SIZES:
        a = torch.randn(n, n, device=device).to(dtype)
        b = torch.randn(n, n, device=device).to(dtype)
        seconds = min(_time_product(a, b) for _ in range(5 if best else 2))
        best = max(best, 2.0 * n**3 / seconds)
        if seconds > _PATIENCE / 8:  # the next one takes 8 times as long
            break
    return best


def _time_product(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
