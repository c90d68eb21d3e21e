"""Inverse Haar transform in two dimensions in Triton."""

from __future__ import annotations

from torch import Tensor

from fusewright.backends.triton._haar import transform


def ihaar2d(x: Tensor, height: int, width: int) -> Tensor:
    image = x.new_empty((x.shape[0], x.shape[1] // 4, height, width))
    transform(image, x, inverse=True)
    return image


def ihaar2d_backward(grad_y: Tensor, height: int, width: int, needs: int) -> Tensor:
    """The transform is orthonormal: the gradient of its inverse is itself."""
    grad_x = grad_y.new_empty(
        (grad_y.shape[0], 4 * grad_y.shape[1], (height + 1) // 2, (width + 1) // 2)
    )
    transform(grad_y, grad_x, inverse=False)
    return grad_x
