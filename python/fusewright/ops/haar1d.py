"""Haar transform in one dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from fusewright import _wtconv
from fusewright._op import Op, supported_dtypes
from fusewright.errors import fail


def _reference(x: Tensor, width: int) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    return _wtconv.haar(x.to(dtype), 1).flatten(1, 2).to(x.dtype)


def _fake(x: Tensor, width: int) -> Tensor:
    return x.new_empty((x.shape[0], 2 * x.shape[1], (width + 1) // 2))


def _fake_backward(grad_y: Tensor, width: int, needs: int) -> Tensor:
    return grad_y.new_empty((grad_y.shape[0], grad_y.shape[1] // 2, width))


def _check(x: Tensor, width: int) -> None:
    if x.dim() != 3:
        fail("haar1d", "x.dim()", x.dim(), "be 3: (N, C, L)")
    if not x.is_floating_point():
        fail("haar1d", "x.dtype", x.dtype, "be a floating-point type")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, ...] = (2, 3, 17),
) -> tuple[Tensor | int, ...]:
    return (torch.randn(shape, dtype=dtype, device=device), *shape[2:])


HAAR1D = Op(
    name="haar1d",
    forward="(Tensor x, int width) -> (Tensor y)",
    backward="(Tensor grad_y, int width, int needs) -> (Tensor grad_x)",
    reference=_reference,
    fake=_fake,
    fake_backward=_fake_backward,
    check=_check,
    supports={
        "cpu": supported_dtypes,
        "cuda": supported_dtypes,
        "metal": supported_dtypes,
        "triton": supported_dtypes,
    },
    sample=_sample,
)


def haar1d(x: Tensor, *, backend: str | None = None) -> Tensor:
    """One level of the Haar transform.

    `low = (a + b) / √2, high = (a - b) / √2 of every pair`.
    Odd sizes are padded with a zero at the end. The transform is orthonormal: its gradient is its
    inverse.

    Args:
        x: (N, C, L); fp64, fp32, bf16 or fp16; any strides.
        backend: the backend to run on; None picks the default.

    Returns:
        The bands, (N, 2C, ceil(L/2)), contiguous: channel 2c+s is band s of channel c,
        low, high.

    Raises:
        ArgumentError: x is no floating-point tensor of 3 dimensions.

    Source: Haar, "Zur Theorie der orthogonalen Funktionensysteme", 1910; the order of the bands is
    that of BGU-CS-VIL/WTConv.
    """
    return HAAR1D(
        x, *(x.shape[2:] if isinstance(x, Tensor) and x.dim() == 3 else (0,)), backend=backend
    )
