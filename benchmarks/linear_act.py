"""linear_act against F.linear and the activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright.bench import Case, Peer

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
}
CPU_SHAPES = ((64, 64, 64), (16, 4096, 4096), (2048, 3072, 768))
GPU_SHAPES = ((8192, 4096, 4096), (4096, 11008, 4096), (2048, 3072, 768), (16, 4096, 4096))


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


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight)


def addmm_activation(gelu: bool, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=gelu)


def peers(activation: str) -> dict[str, Peer]:
    """cuBLAS's product with an activation in its epilogue, which PyTorch can't differentiate."""
    if activation not in ("relu", "gelu_tanh"):
        return {}
    call = partial(addmm_activation, activation == "gelu_tanh")
    return {"_addmm_activation": Peer(call, backward=False)}


def compile_options(dtype: torch.dtype, activation: str) -> dict[str, Any]:
    """max-autotune in a part of the cases: a search of many seconds, which takes cuBLAS's product.

    The default mode takes that product without a search.
    """
    searched = dtype == torch.bfloat16 and activation in ("gelu", "silu")
    return {"mode": "max-autotune-no-cudagraphs"} if searched else {}


def cases(device: torch.device) -> Iterator[Case]:
    """M x N x K: a transformer's, a decoder's few rows, a small one."""
    gpu = device.type != "cpu"
    names = tuple(ACTIVATIONS) if gpu else ("gelu", "silu")
    for dtype in (torch.bfloat16, torch.float16) if gpu else (torch.float32, torch.bfloat16):
        for rows, columns, inner in GPU_SHAPES if gpu else CPU_SHAPES:
            for name in names:
                elements = rows * inner + columns * inner + rows * columns
                yield Case(
                    op="linear_act",
                    shape=f"{rows}x{columns}x{inner} {name}",
                    dtype=dtype,
                    make=make(rows, columns, inner, dtype),
                    ours=partial(fusewright.linear_act, activation=name),
                    eager=partial(eager, ACTIVATIONS[name]),
                    bytes=elements * dtype.itemsize,
                    flops=2 * rows * columns * inner,
                    bytes_backward=3 * elements * dtype.itemsize,
                    flops_backward=6 * rows * columns * inner,
                    peers=peers(name) if gpu else {},
                    floor=product if gpu else None,
                    compile=compile_options(dtype, name) if gpu else {},
                )
