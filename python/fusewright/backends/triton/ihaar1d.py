"""Inverse Haar transform in one dimension in Triton."""

from __future__ import annotations

from torch import Tensor

from fusewright.backends.triton._haar import transform


def ihaar1d(x: Tensor, width: int) -> Tensor:
    image = x.new_empty((x.shape[0], x.shape[1] // 2, width))
    transform(image, x, inverse=True)
    return image


def ihaar1d_backward(grad_y: Tensor, width: int, needs: int) -> Tensor:
    """The transform is orthonormal: the gradient of its inverse is itself."""
    grad_x = grad_y.new_empty((grad_y.shape[0], 2 * grad_y.shape[1], (width + 1) // 2))
    transform(grad_y, grad_x, inverse=False)
    return grad_x
