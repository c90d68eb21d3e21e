"""haar2d against a strided convolution with wavelet filters."""

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
        return (torch.randn(shape, **options),)

    return inputs


def eager(analysis: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, analysis.to(x), stride=2, groups=x.shape[1])


def cases(device: torch.device) -> Iterator[Case]:
    """A stage of WTConvNeXt and a large batch."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((8, 96, 56, 56), (16, 64, 224, 224)):
            analysis, _ = _wavelets.filter_banks("db1", shape[1], 2)
            size = prod(shape) * dtype.itemsize
            yield Case(
                op="haar2d",
                shape="x".join(map(str, shape)),
                dtype=dtype,
                make=make(shape, dtype),
                ours=fusewright.haar2d,
                eager=partial(eager, analysis),
                bytes=2 * size,
                bytes_backward=4 * size,
            )
