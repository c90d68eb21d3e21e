"""Inverse Haar transform in two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from fusewright import _wtconv
from fusewright._op import Op, supported_dtypes


def _reference(x: Tensor, height: int, width: int) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    bands = x.to(dtype).unflatten(1, (x.shape[1] // 4, 4))
    return _wtconv.ihaar(
        bands,
        (height, width),
        2,
    ).to(x.dtype)


def _fake(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // 4, height, width))


def _fake_backward(grad_y: Tensor, height: int, width: int, needs: int) -> Tensor:
    return grad_y.new_empty(
        (grad_y.shape[0], 4 * grad_y.shape[1], (height + 1) // 2, (width + 1) // 2)
    )


def _check(x: Tensor, height: int, width: int) -> None:
    _wtconv.check_bands("ihaar2d", x, (height, width))


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, ...] = (2, 3, 9, 17),
) -> tuple[Tensor | int, ...]:
    bands = (shape[0], 4 * shape[1], *((size + 1) // 2 for size in shape[2:]))
    return (torch.randn(bands, dtype=dtype, device=device), *shape[2:])


IHAAR2D = Op(
    name="ihaar2d",
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


def ihaar2d(
    coefficients: Tensor,
    size: tuple[int, int] | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """The inverse of `haar2d`.

    The transform is orthonormal: its inverse is its transpose, and the gradient of the inverse is
    the transform.

    Args:
        coefficients: the bands, (N, 4C, H, W), in the order that `haar2d` gives.
        size: the size of the result, an odd one where the last element was padding; None is twice
            that of the bands.
        backend: the backend to run on; None picks the default.

    Returns:
        (N, C, *size), contiguous, of the coefficients' dtype.

    Raises:
        ArgumentError: the shape, dtype or size is none of the above.

    Source: as `haar2d`.
    """
    height, width = _wtconv.image_size("ihaar2d", coefficients, size, 2)
    return IHAAR2D(coefficients, height, width, backend=backend)
