"""The check that comes before any timing: no speed is reported of a wrong result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusewright.bench.calls import Function, Training, fresh, tensors_of

# The largest relative error, in the norm of a whole tensor, that is right whatever eager's own is.
LEAST = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
# How many times eager's own error is allowed, for sums that cancel.
FACTOR = 4.0

Results = list[tuple[str, Tensor]]


class Truth:
    """What a case should give: eager PyTorch on the same inputs in float64."""

    def __init__(self, eager: Function, inputs: Sequence[Any], *, gradients: bool) -> None:
        self.inputs = inputs
        self.gradients = gradients
        self.values = _results(eager, fresh(inputs, gradients=gradients, dtype=torch.float64))
        self.forward = sum(not name.startswith("gradient") for name, _ in self.values)
        own = self._of(eager, gradients)
        self.bounds = [
            max(LEAST.get(value.dtype, 0.0), FACTOR * _error(value, truth))
            for (_, value), (_, truth) in zip(own, self.values, strict=True)
        ]

    def fault_of(self, function: Function, *, gradients: bool = True) -> str | None:
        """None if `function` gives the same; else the first result that is off, and how far.

        Args:
            function: what is checked.
            gradients: check these, too, where eager has them.
        """
        gradients = gradients and self.gradients
        found = self._of(function, gradients)
        values = self.values[: len(self.values) if gradients else self.forward]
        if len(found) != len(values):
            return f"gives {len(found)} results, eager gives {len(values)}"
        for (name, value), (_, truth), bound in zip(found, values, self.bounds, strict=False):
            if value.shape != truth.shape:
                return f"{name} has shape {tuple(value.shape)}, eager's has {tuple(truth.shape)}"
            error = _error(value, truth)
            if not error <= bound:
                return f"{name} is off by {error:.2g} relative to its norm, allowed {bound:.2g}"
        return None

    def _of(self, function: Function, gradients: bool) -> Results:
        return _results(function, fresh(self.inputs, gradients=gradients))


def _results(function: Function, inputs: Sequence[Any]) -> Results:
    """Named outputs, inputs that the call wrote to, and gradients where inputs require any."""
    # a kernel that is called by pointers does not count in `_version`
    before = [t.detach().clone() for t in tensors_of(inputs)]
    training = Training(function, inputs)
    gradients: Results = []
    if training.leaves:
        outputs, found = training.outputs_and_gradients()
        gradients = [
            (f"gradient {i}", torch.zeros_like(leaf) if g is None else g)
            for i, (leaf, g) in enumerate(zip(training.leaves, found, strict=True))
        ]
    else:
        with torch.no_grad():
            outputs = tensors_of(function(*inputs))
    written = [
        (f"input {i}, written to,", t.detach())
        for i, (t, old) in enumerate(zip(tensors_of(inputs), before, strict=True))
        if not torch.equal(t, old)
    ]
    named = [(f"output {i}", t.detach()) for i, t in enumerate(outputs)]
    return named + written + gradients


def _error(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖ / ‖truth‖ in float64; NaN where one is finite and the other is not."""
    if value.shape != truth.shape:
        return float("inf")
    value, truth = value.double(), truth.double()
    difference = (value - truth).norm()
    if difference == 0:
        return 0.0
    return float(difference / truth.norm())
