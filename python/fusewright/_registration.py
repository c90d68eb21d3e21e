"""What a kernel is registered with: the fake of a gradient kernel, and vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusewright._derivative import GRAD, NEEDS

if TYPE_CHECKING:
    from fusewright._op import Op
    from fusewright._schema import Signature
    from fusewright.backends import Backend


def define(backend: Backend, signature: Signature, fake: Callable[..., Any]) -> Any:
    """Define the schema in the backend's namespace; None if its library has no kernel for it."""
    name = signature.text.split("(")[0]
    backend.library.define(signature.text)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has(f"{backend.namespace}::{name}", backend.dispatch_key):
        return None
    overload = getattr(getattr(torch.ops, backend.namespace), name).default
    torch.library.register_fake(overload, fake, lib=backend.library)
    if not signature.mutable:
        torch.library.register_vmap(overload, loop_vmap_rule(overload), lib=backend.library)
    return overload


def direct(overload: Any) -> Any:
    """What an `OpOverload` calls and nothing else, where this torch has it by that name."""
    return getattr(overload, "_op", overload)


def default_fake_backward(op: Op) -> Callable[..., Any]:
    """Shapes of the gradients when every one is `empty_like` its argument."""
    assert op.backward_signature is not None
    signature = op.backward_signature

    def fake(*args: Any) -> Any:
        env = dict(zip(signature.names, args, strict=True))
        x = next(t for t in args if isinstance(t, Tensor))
        results: list[Any] = []
        for bit, declared in enumerate(signature.returns):
            value = env[declared.name.removeprefix(GRAD)]
            wanted = value is not None and env[NEEDS] >> bit & 1
            if declared.is_list:
                results.append([torch.empty_like(v) if wanted else v.new_empty(0) for v in value])
            else:
                results.append(torch.empty_like(value) if wanted else x.new_empty(0))
        return results[0] if len(results) == 1 else tuple(results)

    return fake


def loop_vmap_rule(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """vmap as a loop over the batch: kernels have no batch dimension beyond their own."""

    def pick(value: Any, dim: Any, i: int) -> Any:
        if isinstance(value, (list, tuple)):
            dims = dim if isinstance(dim, (list, tuple)) else [dim] * len(value)
            return [pick(v, d, i) for v, d in zip(value, dims, strict=True)]
        return value if dim is None else value.select(dim, i)

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        rows = [
            kernel(*[pick(a, d, i) for a, d in zip(args, in_dims, strict=True)])
            for i in range(info.batch_size)
        ]
        first = rows[0]
        if isinstance(first, Tensor):
            return torch.stack(rows), 0
        stacked: list[Any] = []
        dims: list[Any] = []
        for items in zip(*rows, strict=True):
            if isinstance(items[0], Tensor):
                stacked.append(torch.stack(items))
                dims.append(0)
            else:
                stacked.append([torch.stack(level) for level in zip(*items, strict=True)])
                dims.append([0] * len(items[0]))
        return tuple(stacked), tuple(dims)

    return rule
