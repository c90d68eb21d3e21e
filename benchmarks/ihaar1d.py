"""ihaar1d against a transposed strided convolution with wavelet filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright import _wavelets
from fusewright.bench import Case


def make(
    shape: tuple[int, ...], dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"dtype": dtype, "device": device, "requires_grad": True}
        return (torch.randn(shape[0], 2 * shape[1], *(size // 2 for size in shape[2:]), **options),)

    return inputs


def eager(synthesis: Tensor, x: Tensor) -> Tensor:
    return F.conv_transpose1d(x, synthesis.to(x), stride=2, groups=x.shape[1] // 2)


def cases(device: torch.device) -> Iterator[Case]:
    """A stage of WTConvNeXt and a large batch."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((8, 96, 3136), (64, 256, 4096)):
            _, synthesis = _wavelets.filter_banks("db1", shape[1], 1)
            size = prod(shape) * dtype.itemsize
            yield Case(
                op="ihaar1d",
                shape="x".join(map(str, shape)),
                dtype=dtype,
                make=make(shape, dtype),
                ours=fusewright.ihaar1d,
                eager=partial(eager, synthesis),
                bytes=2 * size,
                bytes_backward=4 * size,
            )
