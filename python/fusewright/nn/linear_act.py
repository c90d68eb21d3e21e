"""Linear layer with a fused activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusewright._check import check_integer
from fusewright.errors import fail
from fusewright.ops.linear_act import ACTIVATIONS, linear_act


class LinearAct(nn.Linear):
    """`torch.nn.Linear` and an activation in one operator; the state_dict is nn.Linear's.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear's.
        activation: None, 'relu', 'gelu', 'gelu_tanh', 'silu', 'sigmoid', 'tanh' or 'mish'.

    Raises:
        ArgumentError: a size or the activation is none of these.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = "gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_integer("LinearAct", "in_features", in_features, 0)
        check_integer("LinearAct", "out_features", out_features, 0)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        if activation is not None and activation not in ACTIVATIONS:
            must = f"be None or one of {', '.join(ACTIVATIONS)}"
            fail("LinearAct", "activation", repr(activation), must)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        return linear_act(x, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"
