"""Haar transform in two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from fusewright import _wtconv
from fusewright._op import Op, supported_dtypes
from fusewright.errors import fail


def _reference(x: Tensor, height: int, width: int) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    return _wtconv.haar(x.to(dtype), 2).flatten(1, 2).to(x.dtype)


def _fake(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((x.shape[0], 4 * x.shape[1], (height + 1) // 2, (width + 1) // 2))


def _fake_backward(grad_y: Tensor, height: int, width: int, needs: int) -> Tensor:
    return grad_y.new_empty((grad_y.shape[0], grad_y.shape[1] // 4, height, width))


def _check(x: Tensor, height: int, width: int) -> None:
    if x.dim() != 4:
        fail("haar2d", "x.dim()", x.dim(), "be 4: (N, C, H, W)")
    if not x.is_floating_point():
        fail("haar2d", "x.dtype", x.dtype, "be a floating-point type")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, ...] = (2, 3, 9, 17),
) -> tuple[Tensor | int, ...]:
    return (torch.randn(shape, dtype=dtype, device=device), *shape[2:])


HAAR2D = Op(
    name="haar2d",
    forward="(Tensor x, int height, int width) -> (Tensor y)",
    backward="(Tensor grad_y, int height, int width, int needs) -> (Tensor grad_x)",
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


def haar2d(x: Tensor, *, backend: str | None = None) -> Tensor:
    """One level of the Haar transform.

    Of every block a b / c d:
    `LL = (a+b+c+d)/2, LH = (a+b-c-d)/2, HL = (a-b+c-d)/2, HH = (a-b-c+d)/2`.
    Odd sizes are padded with a zero at the end. The transform is orthonormal: its gradient is its
    inverse.

    Args:
        x: (N, C, H, W); fp64, fp32, bf16 or fp16; any strides.
        backend: the backend to run on; None picks the default.

    Returns:
        The bands, (N, 4C, ceil(H/2), ceil(W/2)), contiguous: channel 4c+s is band s of channel c,
        LL, LH (high along H), HL (high along W), HH.

    Raises:
        ArgumentError: x is no floating-point tensor of 4 dimensions.

    Source: Haar, "Zur Theorie der orthogonalen Funktionensysteme", 1910; the order of the bands is
    that of BGU-CS-VIL/WTConv.
    """
    return HAAR2D(
        x, *(x.shape[2:] if isinstance(x, Tensor) and x.dim() == 4 else (0, 0)), backend=backend
    )
