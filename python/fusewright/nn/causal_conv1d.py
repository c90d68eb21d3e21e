"""Causal depthwise convolution layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusewright._check import check_integer
from fusewright.ops.causal_conv1d import causal_conv1d, uses_silu
from fusewright.ops.causal_conv1d_update import causal_conv1d_update


class CausalConv1d(nn.Conv1d):
    """Causal depthwise convolution over (B, D, S), with optional SiLU.

    The state_dict is that of `nn.Conv1d(D, D, K, groups=D, padding=K-1)`, which models such as
    Mamba use and cut: weight (D, 1, K), bias (D,).

    Args:
        channels: D.
        kernel_size: K >= 1.
        bias, device, dtype: as torch.nn.Conv1d's.
        activation: None, 'silu' or 'swish', which is the same.

    Raises:
        ArgumentError: a size or the activation is none of these.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 4,
        bias: bool = True,
        activation: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("CausalConv1d", "channels", channels, 1)
        check_integer("CausalConv1d", "kernel_size", kernel_size, 1)
        uses_silu("CausalConv1d", activation)
        super().__init__(
            channels,
            channels,
            kernel_size,
            groups=channels,
            padding=kernel_size - 1,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.activation = activation

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        seq_idx: Tensor | None = None,
        initial_states: Tensor | None = None,
        return_final_states: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, D, S) to (B, D, S), or with the final states; see `fusewright.causal_conv1d`."""
        return causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            seq_idx=seq_idx,
            initial_states=initial_states,
            return_final_states=return_final_states,
            activation=self.activation,
        )

    def new_state(self, batch: int) -> Tensor:
        """An empty state for `step`, (batch, D, K-1), in the weight's dtype and device."""
        check_integer("CausalConv1d", "batch", batch, 0)
        return self.weight.new_zeros(batch, self.in_channels, max(self.kernel_size[0] - 1, 1))

    @torch.no_grad()
    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """Decode x (B, D) or (B, D, S), changing `state` in place; no gradient."""
        return causal_conv1d_update(x, state, self.weight.squeeze(1), self.bias, self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"
