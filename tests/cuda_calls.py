"""Calls that reach every CUDA kernel: each fast path, and what is beside them.

As a script it makes them all, or those named (`rms_norm`, `linear_act:3`), for a sanitizer: see
docs/cuda.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusewright import ops
from fusewright._derivative import as_tuple
from fusewright._op import Op
from fusewright._schema import tensors_of

# Options of `Op.sample`, beside dtype and device.
CALLS: dict[str, list[dict[str, Any]]] = {
    "haar1d": [{}, {"shape": (2, 3, 130)}],
    "ihaar1d": [{}, {"shape": (2, 3, 130)}],
    "haar2d": [{}, {"shape": (2, 3, 34, 66)}],
    "ihaar2d": [{}, {"shape": (2, 3, 34, 66)}],
    "wtconv1d": [{}, {"shape": (2, 3, 2500), "kernel": 3, "levels": 4}],
    "wtconv2d": [
        {},
        {"shape": (5, 8, 14, 14), "levels": 3},
        {"shape": (2, 3, 56, 56), "levels": 5, "kernel": 7},
        {"shape": (2, 33, 10, 12), "channels_last": True, "kernel": 3},
        {"shape": (1, 2, 150, 210), "levels": 3, "kernel": 4},
        {"shape": (1, 3, 80, 150), "levels": 3, "kernel": 5},
        {"shape": (2, 12, 56, 56), "levels": 5, "channels_last": True, "kernel": 5},
    ],
    "causal_conv1d": [
        {},
        {"shape": (2, 16, 1040), "width": 3, "initial_states": True, "return_final_states": True},
        {"shape": (2, 16, 72), "seq_idx": True, "initial_states": True},
        {"shape": (2, 72, 130), "channel_last": True, "return_final_states": True},
        {"shape": (2, 72, 131), "channel_last": True, "seq_idx": True, "width": 2},
        {"shape": (3, 5, 4104)},
        {"shape": (2, 3, 33), "width": 3, "initial_states": True},
        {"shape": (2, 3, 33), "width": 6, "silu": False},
    ],
    "causal_conv1d_update": [
        {},
        {"shape": (5, 64, 1), "length": 3},
        {"shape": (5, 64, 1), "length": 4, "states": 7},
        {"shape": (3, 4136, 1), "length": 4, "circular": True},
        {"shape": (5, 33, 2), "length": 5, "circular": True, "states": 9},
    ],
    "causal_conv1d_varlen_states": [{}, {"channels": 64, "lengths": (5, 80, 0)}],
    "layer_norm": [
        {"residual": True},
        {"shape": (37, 256), "residual": True, "activation": "silu"},
        {"shape": (19, 1000), "activation": "relu", "residual": True},
        {"shape": (11, 4096), "activation": "gelu"},
        {"shape": (3, 16000), "activation": "relu"},
        {"shape": (3, 20000), "residual": True},
        {"shape": (5, 4, 6), "norm_dims": 2, "affine": False},
        # rows enough for the parameters' partial sums to lie in dx
        {"shape": (300, 264), "activation": "silu"},
        {"shape": (600, 1040)},
    ],
    "rms_norm": [
        {"residual": True, "round_first": True},
        {"shape": (37, 256), "residual": True, "activation": "silu", "weight_offset": 1.0},
        {"shape": (19, 1000), "activation": "relu", "residual": True},
        {"shape": (11, 4096), "round_first": True},
        {"shape": (3, 16000)},
        {"shape": (3, 20000), "residual": True},
        {"shape": (300, 264), "activation": "silu"},
        {"shape": (600, 1040)},
    ],
    "linear_act": [
        {},
        {"shape": (16, 128), "out_features": 72},
        {"shape": (5, 264), "out_features": 648, "activation": "gelu"},
        {"shape": (150, 128), "out_features": 136, "activation": "silu"},
        {"shape": (300, 264), "out_features": 264, "activation": "gelu_tanh"},
        {"shape": (65, 33), "out_features": 35, "activation": "relu", "bias": False},
        # as many tiles as Hopper's own kernel asks for
        {"shape": (1500, 72), "out_features": 1544, "activation": "silu"},
        {"shape": (1500, 72), "out_features": 1544, "activation": "gelu"},
    ],
}


def leaves_of(op: Op, args: Sequence[Any], device: str | None = None) -> list[Any]:
    """Arguments in memory of their own, which require a gradient where the operator has one."""
    differentiable = op.backward_signature is not None

    def own(value: Any) -> Any:
        if isinstance(value, list):
            return [own(v) for v in value]
        if not isinstance(value, Tensor):
            return value
        copy = value.detach().to(device or value.device, copy=True)
        return copy.requires_grad_(differentiable and copy.is_floating_point())

    return [own(value) for value in args]


def run(op: Op, leaves: Sequence[Any]) -> list[Tensor]:
    """Outputs, arguments written to, and gradients, whose cotangents are the outputs."""
    outputs = [out for out in as_tuple(op(*leaves, backend="cuda")) if out is not None]
    with_grad = [out for out in outputs if out.requires_grad]
    names = re.findall(r"Tensor\(\w!\) (\w+)", op.forward)
    written = [leaves[op.signature.names.index(name)] for name in names]
    if not with_grad:
        return outputs + written
    wanted = [t for value in leaves for t in tensors_of(value) if t.requires_grad]
    cotangents = [out.detach() for out in with_grad]
    found = torch.autograd.grad(with_grad, wanted, cotangents, allow_unused=True)
    return [*outputs, *written, *(g for g in found if g is not None)]


def call(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """One call with all that is computed from it, its inputs drawn on the host."""
    op = ops.load_all()[name]
    leaves = leaves_of(op, op.sample(dtype=dtype, **options), device="cuda")
    few_rows = dtype.itemsize == 2 and options.get("shape", (0,))[0] in range(1, 17)
    if name == "linear_act" and not few_rows:  # the products of its gradient are cuBLAS's
        for leaf in leaves[:2]:
            leaf.requires_grad_(False)
    if name == "linear_act":
        with torch.no_grad():  # what the gradient needs is not stored then
            run(op, leaves)
    run(op, leaves)
    torch.cuda.synchronize()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or CALLS:
        name, _, index = wanted.partition(":")
        for options in [CALLS[name][int(index)]] if index else CALLS[name]:
            for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
                print(name, options, dtype, flush=True)
                call(name, options, dtype)
