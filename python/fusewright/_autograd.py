"""The autograd Functions of an `Op`.

They differ only in how autograd calls them: `eager` is for speed; `traced` is what torch.compile
can read; `functorch` (torch.func.grad, vmap) needs `setup_context`. The gradient is a Function of
its own, whose derivative comes from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusewright._derivative import Derivative, as_tuple
from fusewright._eager import eager, make_function

# Tensors must be arguments of their own to a Function, so lists travel spread out, with their
# lengths in front.
_LEADING = 2  # of the forward Functions: backend, lengths


class Functions(NamedTuple):
    """What `Op` applies when a gradient is needed."""

    eager: Callable[..., Any]
    traced: Any
    functorch: Any


def functions_of(d: Derivative) -> Functions:
    """Build the Functions of the operator that `d` derives."""
    gradient = _gradient(d, mapped=False)
    return Functions(
        eager=eager(d, gradient),
        traced=_traced(d, gradient),
        functorch=_functorch(d, _gradient(d, mapped=True)),
    )


def _traced(d: Derivative, gradient: Any) -> Any:
    single = d.outputs == 1

    def forward(ctx: Any, backend: str, lengths: tuple[int, ...], *flat: Any) -> Any:
        returns = d.op.kernels[backend].forward(*d.forward.unflatten(lengths, flat))
        if isinstance(returns, Tensor):
            returns = (returns,)
        _save(ctx, d, backend, lengths, flat, returns)
        return returns[0] if single else tuple(returns[: d.outputs])

    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, d, gradient, grads)

    return make_function(d.op.name, forward=forward, backward=backward)


def _functorch(d: Derivative, gradient: Any) -> Any:
    def forward(backend: str, lengths: tuple[int, ...], *flat: Any) -> Any:
        return as_tuple(d.op.kernels[backend].forward(*d.forward.unflatten(lengths, flat)))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        backend, lengths, *flat = inputs
        _save(ctx, d, backend, lengths, flat, output)
        ctx.mark_non_differentiable(*output[d.outputs :])

    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, d, gradient, grads)

    return make_function(
        f"{d.op.name}_functorch",
        vmap=True,
        forward=forward,
        setup_context=setup_context,
        backward=backward,
    )


def _gradient(d: Derivative, mapped: bool) -> Any:
    """The gradient as a Function of the output gradients and of the saved tensors."""
    outputs = d.outputs  # as many output gradients stand in front of the saved tensors

    def forward(
        backend: str, needs: int, lengths: tuple[int, ...], rest: tuple[Any, ...], *tensors: Any
    ) -> Any:
        layout = d.layout(lengths)
        return tuple(d.kernel(backend, layout, needs, tensors[:outputs], tensors[outputs:], rest))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.needs, ctx.lengths, ctx.rest, *tensors = inputs
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, *cotangents: Any) -> Any:
        layout = d.layout(ctx.lengths)
        tensors = ctx.saved_tensors
        values = d.join(layout, tensors[outputs:], ctx.rest)
        of_grads, of_values = d.second(
            layout, ctx.needs, ctx.lengths, tensors[:outputs], values, cotangents
        )
        return (None, None, None, None, *of_grads, *[of_values[i] for i in layout.kept])

    return make_function(
        f"{d.op.name}_gradient",
        vmap=mapped,
        forward=forward,
        setup_context=setup_context,
        backward=backward,
    )


def _save(
    ctx: Any,
    d: Derivative,
    backend: str,
    lengths: tuple[int, ...],
    flat: Sequence[Any],
    returns: Sequence[Any],
) -> None:
    tensors, rest = d.split(d.layout(lengths), flat, returns)
    ctx.backend, ctx.lengths, ctx.rest = backend, lengths, tuple(rest)
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d: Derivative, gradient: Any, grads: Sequence[Any]) -> Any:
    flags = ctx.needs_input_grad[_LEADING:]
    found: list[Any] = [None] * len(flags)
    grads = grads[: d.outputs]
    if d.outputs > 1:  # an absent output is an empty tensor, and so may its gradient be
        grads = [None if g is None or g.shape == (0,) else g for g in grads]
    if all([g is None for g in grads]):  # noqa: C419  a generator takes twice the time
        return (None, None, *found)
    layout, tensors = d.layout(ctx.lengths), ctx.saved_tensors
    needs = 0
    for value, bit in layout.bits:
        if flags[value]:
            needs = needs | bit  # torch 2.11 can't trace `|=` on a symbol
    result: Sequence[Any]
    if torch.is_grad_enabled():  # somebody may differentiate again
        result = gradient.apply(ctx.backend, needs, ctx.lengths, ctx.rest, *grads, *tensors)
    else:
        result = d.kernel(ctx.backend, layout, needs, grads, tensors, ctx.rest)
    for value, place in layout.gradients:
        if flags[value]:
            found[value] = result[place]
    return (None, None, *found)
