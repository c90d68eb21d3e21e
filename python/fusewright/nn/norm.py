"""Layer norm and RMS norm, with the state_dicts of torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusewright._norm import activation_name
from fusewright.errors import fail
from fusewright.ops.layer_norm import layer_norm
from fusewright.ops.rms_norm import CASTING, rms_norm


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` with an optional residual sum before it and activation after it.

    Args:
        normalized_shape, eps, elementwise_affine, bias, device, dtype: as torch.nn.LayerNorm's.
        activation: None, 'relu', 'gelu', 'gelu_tanh' or 'silu'.

    Raises:
        ArgumentError: the activation is none of these.
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
        ArgumentError: the activation or the casting is none of these.
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
        self.weight_offset = weight_offset  # before torch's constructor, which resets the weight
        super().__init__(
            normalized_shape,
            eps,
            elementwise_affine,
            device=device,
            dtype=dtype,
        )
        activation_name("RMSNorm", activation)
        if casting not in CASTING:
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
        return rms_norm(
            x,
            self.weight,
            residual=residual,
            normalized_shape=tuple(self.normalized_shape),
            eps=torch.finfo(x.dtype).eps if self.eps is None else self.eps,
            activation=self.activation,
            weight_offset=self.weight_offset,
            casting=self.casting,
        )

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, activation={self.activation}, "
            f"weight_offset={self.weight_offset}, casting={self.casting}"
        )
