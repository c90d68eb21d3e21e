"""How a case is called: its inputs in another dtype, its outputs, its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

FORWARD, BACKWARD = "forward", "forward+backward"

Function = Callable[..., Any]


def tensors_of(tree: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def fresh(inputs: Sequence[Any], *, gradients: bool, dtype: torch.dtype | None = None) -> Any:
    """A copy of the inputs that a call may write to.

    Args:
        inputs: what `Case.make` gave.
        gradients: keep `requires_grad` as it is in `inputs`; else nothing requires a gradient.
        dtype: replaces that of every floating-point tensor.
    """

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        target = dtype if leaf.is_floating_point() else None
        copied = leaf.detach().to(dtype=target, copy=True)
        return copied.requires_grad_(gradients and leaf.requires_grad)

    return pytree.tree_map(copy, tuple(inputs))


class Training:
    """A forward and backward of a function, with random output gradients, always the same."""

    def __init__(self, function: Function, inputs: Sequence[Any]) -> None:
        self.function = function
        self.inputs = inputs
        self.leaves = [t for t in tensors_of(inputs) if t.requires_grad]
        self.cotangents: list[Tensor] | None = None

    def __call__(self) -> tuple[Tensor | None, ...]:
        """The gradients of every input that requires one."""
        return self.outputs_and_gradients()[1]

    def outputs_and_gradients(self) -> tuple[list[Tensor], tuple[Tensor | None, ...]]:
        """Everything that one forward and backward gives."""
        outputs = tensors_of(self.function(*self.inputs))
        roots = [t for t in outputs if t.requires_grad]
        if self.cotangents is None:  # drawn in the first call, which is never timed
            self.cotangents = [_cotangent(t) for t in roots]
        found = torch.autograd.grad(roots, self.leaves, self.cotangents, allow_unused=True)
        return outputs, found


def call_of(function: Function, inputs: Sequence[Any], direction: str) -> Callable[[], Any]:
    """What is timed: the forward without gradients, or forward and backward."""
    if direction == BACKWARD:
        return Training(function, inputs)

    def forward() -> Any:
        with torch.no_grad():
            return function(*inputs)

    return forward


def _cotangent(output: Tensor) -> Tensor:
    """Random numbers that depend on shape and device alone, exact in every dtype.

    They lie in memory as the output does: that is what the next layer's gradient does mostly.
    """
    generator = torch.Generator(output.device).manual_seed(0)
    drawn = torch.randn(output.shape, generator=generator, device=output.device).bfloat16()
    return torch.empty_like(output).copy_(drawn).detach()
