"""What layer_norm and rms_norm share: the sum with the residual, checks, fakes and samples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusewright._check import check_floating, is_integer
from fusewright._op import supported_dtypes
from fusewright.errors import fail

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")


def activate(x: Tensor, activation: str) -> Tensor:
    """The activation of that name."""
    if activation == "none":
        return x
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    return getattr(F, activation)(x)


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """What the statistics of x are computed in."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def add_residual(x: Tensor, residual: Tensor | None) -> Tensor:
    """The rows to normalise: x, or the sum rounded to the residual's dtype."""
    if residual is None:
        return x
    dtype = accumulation_dtype(x)
    return (x.to(dtype) + residual.to(dtype)).to(residual.dtype)


def activation_name(op: str, activation: str | None) -> str:
    """'none' for None, else the name if the operator has it."""
    if activation is None:
        return "none"
    if activation not in ACTIVATIONS:
        fail(op, "activation", repr(activation), f"be None or one of {', '.join(ACTIVATIONS)}")
    return activation


def dims_of(op: str, x: Tensor, normalized_shape: int | tuple[int, ...] | None) -> int:
    """How many trailing dimensions `normalized_shape` covers; the last one where it is None."""
    if normalized_shape is None:
        return 1
    if not isinstance(x, Tensor):
        return 1  # of that `Op` tells
    shape: Any = (normalized_shape,) if is_integer(normalized_shape) else normalized_shape
    if not isinstance(shape, (list, tuple)) or not shape or x.shape[-len(shape) :] != tuple(shape):
        fail(op, "normalized_shape", shape, f"be trailing dimensions of x, {tuple(x.shape)}")
    return len(shape)


def check(
    op: str,
    x: Tensor,
    parameters: dict[str, Tensor | None],
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
) -> None:
    """Raise `ArgumentError` for arguments that are wrong on every backend."""
    shape = x.shape
    check_floating(op, "x", x)
    if not 1 <= norm_dims <= len(shape):
        fail(op, "x.dim()", len(shape), f"be at least {max(norm_dims, 1)}")
    trailing = shape[len(shape) - norm_dims :]
    for name, value in parameters.items():
        if value is None:
            continue
        if value.shape != trailing:
            fail(op, f"{name}.shape", tuple(value.shape), f"be {tuple(trailing)}")
        check_floating(op, name, value)
    if residual is not None:
        if residual.shape != shape:
            fail(op, "residual.shape", tuple(residual.shape), f"be {tuple(shape)} as x's")
        check_floating(op, "residual", residual)
    if not eps >= 0:  # NaN too
        fail(op, "eps", eps, "be >= 0")
    activation_name(op, activation)


def supported(x: Tensor, residual: Tensor | None, *parameters: Tensor | None) -> str | None:
    """`supported_dtypes`, and both x and the residual in fp64 or neither.

    The statistics have the precision of x, the gradient that of the sum, which is the residual's.
    """
    if residual is not None and (x.dtype is torch.float64) != (residual.dtype is torch.float64):
        return f"its kernels add no {residual.dtype} residual to {x.dtype}"
    return supported_dtypes(x, residual, *parameters)


def fake_outputs(x: Tensor, residual: Tensor | None, norm_dims: int) -> tuple[Tensor, ...]:
    """y, the sum with the residual or nothing, and one statistic a row."""
    lead = x.shape[: x.dim() - norm_dims]
    total = x.new_empty(0) if residual is None else residual.new_empty(x.shape)
    return x.new_empty(x.shape), total, x.new_empty(lead, dtype=accumulation_dtype(x))


def sample(
    parameters: int,
    shape: tuple[int, ...] = (3, 4, 21),
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    weight_dtype: torch.dtype | None = None,
    affine: bool = True,
    residual: bool = False,
    residual_dtype: torch.dtype | None = None,
    norm_dims: int = 1,
) -> list[Any]:
    """x, that many parameters, and the residual."""
    options: dict[str, Any] = {"dtype": weight_dtype or dtype, "device": device}
    trailing = shape[len(shape) - norm_dims :]
    return [
        torch.randn(shape, dtype=dtype, device=device),
        *[torch.randn(trailing, **options) if affine else None for _ in range(parameters)],
        torch.randn(shape, dtype=residual_dtype or dtype, device=device) if residual else None,
    ]
