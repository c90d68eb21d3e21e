"""Root-mean-square norm in Triton."""

from __future__ import annotations

from torch import Tensor

from fusewright.backends.triton import _norm


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float,
    round_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, total, _, rstd = _norm.forward(
        False, x, weight, None, residual, norm_dims, eps, activation, weight_offset, round_first
    )
    return y, total, rstd


def rms_norm_backward(
    grad_y: Tensor | None,
    grad_residual_out: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float,
    round_first: bool,
    needs: int,
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight, _ = _norm.backward(
        False,
        grad_y,
        grad_residual_out,
        x,
        weight,
        None,
        rstd,
        rstd,
        norm_dims,
        activation,
        (bool(needs & 1), bool(needs & 2), False),
        weight_offset,
        round_first,
    )
    return grad_x, grad_weight
