"""Root-mean-square norm, with optional residual sum and activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusewright import _norm
from fusewright._op import Op
from fusewright.errors import fail

CASTING = {"fp32": False, "llama": True}
_CASTINGS = tuple(CASTING)  # also finds what has no hash


def _reference(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float,
    round_first: bool,
) -> tuple[Tensor, Tensor | None]:
    total = _norm.add_residual(x, residual)
    dtype = _norm.accumulation_dtype(x)
    h = total.to(dtype)
    dims = tuple(range(-norm_dims, 0))
    y = h * torch.rsqrt(h.square().mean(dims, keepdim=True) + eps)
    if round_first:
        y = y.to(x.dtype).to(dtype)
    if weight is not None:
        y = y * (weight.to(dtype) + weight_offset)
    return _norm.activate(y, activation).to(x.dtype), None if residual is None else total


def _fake(
    x: Tensor, weight: Tensor | None, residual: Tensor | None, norm_dims: int, *_: Any
) -> tuple[Tensor, ...]:
    return _norm.fake_outputs(x, residual, norm_dims)


def _check(
    x: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float,
    round_first: bool,
) -> None:
    _norm.check("rms_norm", x, {"weight": weight}, residual, norm_dims, eps, activation)


def _supports(x: Tensor, weight: Tensor | None, residual: Tensor | None, *_: Any) -> str | None:
    return _norm.supported(x, residual, weight)


def _sample(
    *,
    eps: float = 1e-6,
    activation: str = "none",
    weight_offset: float = 0.0,
    round_first: bool = False,
    norm_dims: int = 1,
    **options: Any,
) -> tuple[Any, ...]:
    tensors = _norm.sample(1, norm_dims=norm_dims, **options)
    return (*tensors, norm_dims, eps, activation, weight_offset, round_first)


RMS_NORM = Op(
    name="rms_norm",
    forward="(Tensor x, Tensor? weight, Tensor? residual, int norm_dims, float eps, "
    "str activation, float weight_offset, bool round_first) -> (Tensor y, Tensor residual_out, "
    "Tensor rstd)",
    backward="(Tensor? grad_y, Tensor? grad_residual_out, Tensor x, Tensor? weight, Tensor rstd, "
    "int norm_dims, float eps, str activation, float weight_offset, bool round_first, int needs) "
    "-> (Tensor grad_x, Tensor grad_weight)",
    outputs=("y", "residual_out"),
    merged=("x", "residual", "residual_out"),
    reference=_reference,
    fake=_fake,
    check=_check,
    supports={"cpu": _supports, "cuda": _supports, "metal": _supports, "triton": _supports},
    sample=_sample,
)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    normalized_shape: int | tuple[int, ...] | None = None,
    eps: float = 1e-6,
    activation: str | None = None,
    weight_offset: float = 0.0,
    casting: str = "fp32",
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Root-mean-square norm over the trailing dimensions, after an optional sum.

    `h = x + residual`, `y = act(h / sqrt(mean(h²) + eps) · (weight + weight_offset))`.

    Args:
        x: (..., D); fp64, fp32, bf16 or fp16; any strides.
        weight: (D,), or of `normalized_shape`; of a floating-point type of its own.
        residual: of x's shape; the sum is rounded to its dtype and then normalised.
        normalized_shape: the trailing dimensions to normalise; None is the last one.
        eps: added to the mean square, >= 0.
        activation: None, 'relu', 'gelu', 'gelu_tanh' or 'silu'.
        weight_offset: added to the weight; 1.0 is Gemma's norm.
        casting: 'fp32' rounds once, at the end, as Gemma does; 'llama' rounds the normalised
            value to x's dtype before the weight, as Llama does.
        backend: the backend to run on; None picks the default.

    Returns:
        y, of x's shape and dtype, contiguous; with a residual (y, h), h of the residual's dtype.

    Raises:
        ArgumentError: a shape, dtype or option is none of the above.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019; the casting
    orders are those of LlamaRMSNorm and GemmaRMSNorm in transformers.
    """
    if casting not in _CASTINGS:
        fail("rms_norm", "casting", repr(casting), "be 'fp32' or 'llama'")
    dims = 1 if normalized_shape is None else _norm.dims_of("rms_norm", x, normalized_shape)
    y, total = RMS_NORM(
        x,
        weight,
        residual,
        dims,
        eps,
        _norm.activation_name("rms_norm", activation),
        weight_offset,
        CASTING[casting],
        backend=backend,
    )
    return y if residual is None else (y, total)
