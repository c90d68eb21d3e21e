"""Inverse Haar transform in one dimension."""

from __future__ import annotations

import torch
from torch import Tensor

from fusewright import _wtconv
from fusewright._op import Op, supported_dtypes


def _reference(x: Tensor, width: int) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    bands = x.to(dtype).unflatten(1, (x.shape[1] // 2, 2))
    return _wtconv.ihaar(bands, (width,), 1).to(x.dtype)


def _fake(x: Tensor, width: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 2, width))


def _fake_backward(grad_y: Tensor, width: int, needs: int) -> Tensor:
    return grad_y.new_empty((grad_y.shape[0], 2 * grad_y.shape[1], (width + 1) // 2))


def _check(x: Tensor, width: int) -> None:
    _wtconv.check_bands("ihaar1d", x, (width,))


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, ...] = (2, 3, 17),
) -> tuple[Tensor | int, ...]:
    bands = (shape[0], 2 * shape[1], *((size + 1) // 2 for size in shape[2:]))
    return (torch.randn(bands, dtype=dtype, device=device), *shape[2:])


IHAAR1D = Op(
    name="ihaar1d",
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


def ihaar1d(
    coefficients: Tensor,
    size: int | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """The inverse of `haar1d`.

    The transform is orthonormal: its inverse is its transpose, and the gradient of the inverse is
    the transform.

    Args:
        coefficients: the bands, (N, 2C, L), in the order that `haar1d` gives.
        size: the size of the result, an odd one where the last element was padding; None is twice
            that of the bands.
        backend: the backend to run on; None picks the default.

    Returns:
        (N, C, *size), contiguous, of the coefficients' dtype.

    Raises:
        ArgumentError: the shape, dtype or size is none of the above.

    Source: as `haar1d`.
    """
    (width,) = _wtconv.image_size("ihaar1d", coefficients, size, 1)
    return IHAAR1D(coefficients, width, backend=backend)
