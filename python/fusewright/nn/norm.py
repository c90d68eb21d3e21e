"""Layer norm and RMS norm, with the state_dicts of torch.nn's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fusewright._check import check_number, is_integer
from fusewright._norm import activation_name
from fusewright.errors import fail
from fusewright.ops.layer_norm import layer_norm
from fusewright.ops.rms_norm import CASTING, rms_norm


def _check_shape(name: str, shape: Any) -> None:
    sizes = [shape] if is_integer(shape) else shape
    if (
        not isinstance(sizes, (list, tuple))
        or not sizes
        or not all(is_integer(s) and s >= 0 for s in sizes)
    ):
        fail(name, "normalized_shape", repr(shape), "be an integer >= 0, or a list of such")


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` with an optional residual sum before it and activation after it.

    Args:
        normalized_shape, eps, elementwise_affine, bias, device, dtype: as torch.nn.LayerNorm's.
        activation: None, 'relu', 'gelu', 'gelu_tanh' or 'silu'.

    Raises:
        ArgumentError: the shape, eps or activation is none of these.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        activation: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_shape("LayerNorm", normalized_shape)
        check_number("LayerNorm", "eps", eps, 0)
        super().__init__(
            normalized_shape,
            eps,
            elementwise_affine,
            bias,
            device=device,
            dtype=dtype,
        )
        activation_name("LayerNorm", activation)
        self.activation = activation

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """y, or (y, x + residual) where a residual is given; see `fusewright.layer_norm`."""
        return layer_norm(
            x,
            self.weight,
            self.bias,
            residual=residual,
            normalized_shape=tuple(self.normalized_shape),
            eps=self.eps,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` with an optional residual sum before it and activation after it.

    Args:
        normalized_shape, elementwise_affine, device, dtype: as torch.nn.RMSNorm's.
        eps: as torch.nn.RMSNorm's; None is the smallest step of x's dtype.
        activation: None, 'relu', 'gelu', 'gelu_tanh' or 'silu'.
        weight_offset: added to the weight; with 1.0, as in Gemma, the weight starts at 0.
        casting: 'fp32', or 'llama' to round before the weight; see `fusewright.rms_norm`.

    Raises:
        ArgumentError: the shape, or a value, is none of these.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        activation: str | None = None,
        weight_offset: float = 0.0,
        casting: str = "fp32",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_shape("RMSNorm", normalized_shape)
        if eps is not None:
            check_number("RMSNorm", "eps", eps, 0)
        check_number("RMSNorm", "weight_offset", weight_offset)
        self.weight_offset = weight_offset  # before torch's constructor, which resets the weight
        super().__init__(
            normalized_shape,
            eps,
            elementwise_affine,
            device=device,
            dtype=dtype,
        )
        activation_name("RMSNorm", activation)
        if casting not in tuple(CASTING):
            fail("RMSNorm", "casting", repr(casting), "be 'fp32' or 'llama'")
        self.activation = activation
        self.casting = casting

    def reset_parameters(self) -> None:
        """Start from the identity: weight + weight_offset is 1."""
        if self.elementwise_affine:
            nn.init.constant_(self.weight, 1.0 - self.weight_offset)

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """y, or (y, x + residual) where a residual is given; see `fusewright.rms_norm`."""
        if self.eps is not None:
            eps = self.eps
        else:  # of a wrong x the operator tells
            fits = isinstance(x, Tensor) and x.is_floating_point()
            eps = torch.finfo(x.dtype).eps if fits else 0.0
        return rms_norm(
            x,
            self.weight,
            residual=residual,
            normalized_shape=tuple(self.normalized_shape),
            eps=eps,
            activation=self.activation,
            weight_offset=self.weight_offset,
            casting=self.casting,
        )

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, activation={self.activation}, "
            f"weight_offset={self.weight_offset}, casting={self.casting}"
        )
