"""Layer norm, with optional residual sum and activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusewright import _norm
from fusewright._op import Op


def _reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor | None]:
    total = _norm.add_residual(x, residual)
    dtype = _norm.accumulation_dtype(x)
    dims = tuple(range(-norm_dims, 0))
    h = total.to(dtype)
    centred = h - h.mean(dims, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    return _norm.activate(y, activation).to(x.dtype), None if residual is None else total


def _fake(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    *_: Any,
) -> tuple[Tensor, ...]:
    y, total, mean = _norm.fake_outputs(x, residual, norm_dims)
    return y, total, mean, torch.empty_like(mean)


def _check(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
) -> None:
    parameters = {"weight": weight, "bias": bias}
    _norm.check("layer_norm", x, parameters, residual, norm_dims, eps, activation)


def _supports(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, *_: Any
) -> str | None:
    return _norm.supported(x, residual, weight, bias)


def _sample(
    *, eps: float = 1e-5, activation: str = "none", norm_dims: int = 1, **options: Any
) -> tuple[Any, ...]:
    return (*_norm.sample(2, norm_dims=norm_dims, **options), norm_dims, eps, activation)


LAYER_NORM = Op(
    name="layer_norm",
    forward="(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, int norm_dims, float eps, "
    "str activation) -> (Tensor y, Tensor residual_out, Tensor mean, Tensor rstd)",
    backward="(Tensor? grad_y, Tensor? grad_residual_out, Tensor x, Tensor? weight, Tensor? bias, "
    "Tensor mean, Tensor rstd, int norm_dims, float eps, str activation, int needs) "
    "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    outputs=("y", "residual_out"),
    merged=("x", "residual", "residual_out"),
    reference=_reference,
    fake=_fake,
    check=_check,
    supports={"cpu": _supports, "cuda": _supports, "metal": _supports, "triton": _supports},
    sample=_sample,
)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    normalized_shape: int | tuple[int, ...] | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Layer norm over the trailing dimensions, after an optional sum, before an activation.

    `h = x + residual`, `y = act((h - mean(h)) / sqrt(var(h) + eps) · weight + bias)`, with the
    biased variance. The variance is summed over deviations from the mean, so that a large mean
    costs no accuracy.

    Args:
        x: (..., D); fp64, fp32, bf16 or fp16; any strides.
        weight: (D,), or of `normalized_shape`; of a floating-point type of its own.
        bias: as the weight.
        residual: of x's shape; the sum is rounded to its dtype and then normalised.
        normalized_shape: the trailing dimensions to normalise; None is the last one.
        eps: added to the variance, >= 0.
        activation: None, 'relu', 'gelu', 'gelu_tanh' or 'silu'.
        backend: the backend to run on; None picks the default.

    Returns:
        y, of x's shape and dtype, contiguous; with a residual (y, h), h of the residual's dtype.

    Raises:
        ArgumentError: a shape, dtype or option is none of the above.

    Source: Ba, Kiros and Hinton, "Layer Normalization", 2016; numbers as torch.nn.functional's.
    """
    dims = 1 if normalized_shape is None else _norm.dims_of("layer_norm", x, normalized_shape)
    y, total = LAYER_NORM(
        x,
        weight,
        bias,
        residual,
        dims,
        eps,
        _norm.activation_name("layer_norm", activation),
        backend=backend,
    )
    return y if residual is None else (y, total)
