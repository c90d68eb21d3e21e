"""Linear layer with a fused activation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, is_autocast_enabled
from torch.compiler import is_dynamo_compiling

from fusewright._op import Op, is_functorch_active, supported_dtypes
from fusewright.backends import forced
from fusewright.errors import fail

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "mish")


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
) -> Tensor:
    if weight.dtype != x.dtype:  # a conversion to the same type takes its time, too
        weight = weight.to(x.dtype)
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    pre = F.linear(x, weight, bias)
    if activation == "none":
        return pre
    if activation == "gelu_tanh":
        return F.gelu(pre, approximate="tanh")
    if activation in ("sigmoid", "tanh"):
        return getattr(torch, activation)(pre)
    return getattr(F, activation)(pre)


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
) -> tuple[Tensor, Tensor]:
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    return y, torch.empty_like(y) if keep and activation != "none" else x.new_empty(0)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool) -> None:
    op = "linear_act"
    if not x.is_floating_point():
        fail(op, "x.dtype", x.dtype, "be a floating-point type")
    if not weight.is_floating_point():
        fail(op, "weight.dtype", weight.dtype, "be a floating-point type")
    if weight.dim() != 2:
        fail(op, "weight.dim()", weight.dim(), "be 2: (out_features, in_features)")
    if x.dim() < 1:
        fail(op, "x.dim()", x.dim(), "be at least 1")
    rows, columns = weight.shape
    if x.shape[-1] != columns:
        fail(op, "x.shape[-1]", x.shape[-1], f"be {columns} as weight.shape[1]")
    if bias is not None:
        if not bias.is_floating_point():
            fail(op, "bias.dtype", bias.dtype, "be a floating-point type")
        if bias.shape != (rows,):
            fail(op, "bias.shape", tuple(bias.shape), f"be ({rows},)")
    if activation not in ACTIVATIONS:
        fail(op, "activation", repr(activation), f"be None or one of {', '.join(ACTIVATIONS)}")


def _sample(
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shape: tuple[int, ...] = (3, 7, 13),
    out_features: int = 11,
    weight_dtype: torch.dtype | None = None,
    bias: bool = True,
    activation: str = "gelu",
    keep: bool = True,
) -> tuple[Any, ...]:
    options: dict[str, Any] = {"dtype": weight_dtype or dtype, "device": device}
    scale = max(shape[-1], 1) ** -0.5
    return (
        torch.randn(shape, dtype=dtype, device=device),
        torch.randn(out_features, shape[-1], **options) * scale,
        torch.randn(out_features, **options) if bias else None,
        activation,
        keep,
    )


# Products with fewer multiply-adds take less time than what autograd asks of an operator of ours.
_SMALL = 2**22


def _avoid_on_cpu(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
) -> str | None:
    if keep and x.numel() * weight.shape[0] < _SMALL:
        return f"PyTorch's own calls are faster below {_SMALL} multiply-adds with a gradient"
    return None


LINEAR_ACT = Op(
    name="linear_act",
    forward="(Tensor x, Tensor weight, Tensor? bias, str activation, bool keep) -> (Tensor y, "
    "Tensor pre)",
    backward="(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor pre, str activation, "
    "int needs) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    reference=_reference,
    fake=_fake,
    check=_check,
    supports={"cpu": supported_dtypes, "cuda": supported_dtypes, "triton": supported_dtypes},
    avoid={"cpu": _avoid_on_cpu},
    autocast="lower",
    sample=_sample,
)


def linear_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Linear layer with a fused activation, `act(x Wᵀ + b)`.

    Args:
        x: (..., in_features); fp64, fp32, bf16 or fp16; any strides.
        weight: (out_features, in_features); of another floating-point type it is converted to x's.
        bias: (out_features,) or None.
        activation: None or 'none', 'relu', 'gelu' (erf), 'gelu_tanh', 'silu', 'sigmoid', 'tanh'
            or 'mish'.
        backend: the backend to run on; None picks the default.

    Returns:
        y, (..., out_features), of x's dtype; under autocast of autocast's dtype, as a matrix
        product is.

    Raises:
        ArgumentError: a shape, dtype or activation is none of the above.

    The result of the product, before the activation, is kept only where a gradient will need it.
    Source: torch.nn.functional.linear and the activations of torch.nn.functional.
    """
    keep = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in (x, weight, bias)
    )
    name = "none" if activation is None else activation
    if backend is None and not keep:
        y = _at_once(x, weight, bias, name)
        if y is not None:
            return y
    return LINEAR_ACT(x, weight, bias, name, keep, backend=backend)


def _at_once(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor | None:
    """The CPU kernel's result, where nothing but its own checks can object; else None.

    What `Op` does before it calls the kernel takes half as long as a product of 64x64x64.
    """
    kernels = LINEAR_ACT.direct.get("cpu")
    if (
        kernels is None
        or not (isinstance(x, Tensor) and x.is_cpu)
        or not (isinstance(weight, Tensor) and weight.is_cpu and weight.dtype is x.dtype)
        or not (
            bias is None or (isinstance(bias, Tensor) and bias.is_cpu and bias.dtype is x.dtype)
        )
        or forced() is not None
        or is_autocast_enabled("cpu")
        or is_functorch_active()
        or is_dynamo_compiling()
    ):
        return None
    try:
        y: Tensor = kernels.forward(x, weight, bias, activation, False)[0]
    except RuntimeError:  # `Op` tells what is wrong
        return None
    return y
