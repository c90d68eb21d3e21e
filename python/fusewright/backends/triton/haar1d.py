"""Haar transform in one dimension in Triton."""

from __future__ import annotations

from torch import Tensor

from fusewright.backends.triton._haar import transform


def haar1d(x: Tensor, width: int) -> Tensor:
    bands = x.new_empty((x.shape[0], 2 * x.shape[1], (width + 1) // 2))
    transform(x, bands, inverse=False)
    return bands


def haar1d_backward(grad_y: Tensor, width: int, needs: int) -> Tensor:
    """The transform is orthonormal: its gradient is its inverse."""
    grad_x = grad_y.new_empty((grad_y.shape[0], grad_y.shape[1] // 2, width))
    transform(grad_x, grad_y, inverse=True)
    return grad_x
