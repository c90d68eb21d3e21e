"""linear_act against F.linear and the activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu}


def make(
    rows: int, columns: int, inner: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        weight = torch.randn(columns, inner, **options) / inner**0.5
        return (
            torch.randn(rows, inner, **options).requires_grad_(),
            weight.requires_grad_(),
            torch.randn(columns, **options).requires_grad_(),
        )

    return inputs


def eager(
    activation: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    return activation(F.linear(x, weight, bias))


def cases(device: torch.device) -> Iterator[Case]:
    """M x N x K: a transformer's, a decoder's few rows, a small one."""
    shapes = [(64, 64, 64), (16, 4096, 4096), (2048, 3072, 768)]
    if device.type != "cpu":
        shapes += [(8192, 4096, 4096), (4096, 11008, 4096)]
    for dtype in (torch.float32, torch.bfloat16):
        for rows, columns, inner in shapes:
            for name, activation in ACTIVATIONS.items():
                elements = rows * inner + columns * inner + rows * columns
                yield Case(
                    op="linear_act",
                    shape=f"{rows}x{columns}x{inner} {name}",
                    dtype=dtype,
                    make=make(rows, columns, inner, dtype),
                    ours=partial(fusewright.linear_act, activation=name),
                    eager=partial(eager, activation),
                    bytes=elements * dtype.itemsize,
                    flops=2 * rows * columns * inner,
                    bytes_backward=3 * elements * dtype.itemsize,
                    flops_backward=6 * rows * columns * inner,
                )
