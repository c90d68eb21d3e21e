"""Layer norm in Triton."""

from __future__ import annotations

from torch import Tensor

from fusewright.backends.triton import _norm


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _norm.forward(True, x, weight, bias, residual, norm_dims, eps, activation)


def layer_norm_backward(
    grad_y: Tensor | None,
    grad_residual_out: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm_dims: int,
    eps: float,
    activation: str,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _norm.backward(
        True,
        grad_y,
        grad_residual_out,
        x,
        weight,
        bias,
        mean,
        rstd,
        norm_dims,
        activation,
        (bool(needs & 1), bool(needs & 2), bool(needs & 4)),
    )
