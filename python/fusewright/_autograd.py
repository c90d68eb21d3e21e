"""The autograd Functions of an `Op`, built from its schemas.

Two of them differ only in how autograd calls them: `eager` saves in its forward, which costs half
of what `setup_context` does; `functorch` (torch.func.grad, vmap) needs `setup_context`. The
gradient is a Function of its own, whose derivative comes from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from fusewright._op import Op

_NEEDS = "needs"
_GRAD = "grad_"


class Functions(NamedTuple):
    """What `Op` applies when a gradient is needed."""

    eager: Any
    functorch: Any


class Absent(NamedTuple):
    """Stands for an argument that the gradient does not depend on, so that it is not kept alive."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def materialize(self) -> Tensor:
        """A stand-in of the same shape that takes no memory."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape)


class Derivative:
    """The gradient of one `Op`: what to save, how to call its kernel, how to derive it again."""

    def __init__(self, op: Op) -> None:
        assert op.backward_signature is not None
        self.op = op
        self.forward = op.signature
        self.backward = op.backward_signature
        self.grad_names = tuple(_GRAD + name for name in op.outputs)
        self.wrt = tuple(r.name.removeprefix(_GRAD) for r in self.backward.returns)
        extras = {r.name for r in self.forward.returns[len(op.outputs) :]}
        self.merged = op.merged
        self.saved = self.forward.names + tuple(n for n in self.backward.names if n in extras)

    # The saved values are every argument of the forward, then the extra returns that the backward
    # wants. A tensor argument that the backward does not name is saved as `Absent`.

    def values_to_save(self, args: Sequence[Any], returns: Sequence[Any]) -> list[Any]:
        """The saved values of one call."""
        named_returns = dict(zip((r.name for r in self.forward.returns), returns, strict=True))
        named = dict(zip(self.forward.names, args, strict=True))
        if self.merged is not None:
            first, second, total = self.merged
            if named[second] is not None:
                named[first] = named_returns[total]
        for argument in self.forward.arguments:
            if argument.is_tensor and argument.name not in self.backward.names:
                named[argument.name] = _absent(named[argument.name])
        return [*named.values(), *[named_returns[n] for n in self.saved[len(args) :]]]

    def needs(self, lengths: Sequence[int], flat_needs: Sequence[bool]) -> int:
        """The bit mask of wanted gradients, from one flag for every flat argument."""
        wanted = dict(
            zip(self.forward.names, self.forward.unflatten(lengths, flat_needs), strict=True)
        )
        if self.merged is not None:
            first, second, _ = self.merged
            wanted[first] = wanted[first] or wanted[second]
        mask = 0
        for bit, name in enumerate(self.wrt):
            flag = wanted[name]
            mask |= (any(flag) if isinstance(flag, list) else flag) << bit
        return mask

    def kernel(
        self, backend: str, needs: int, grads: Sequence[Tensor | None], values: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Call the backend's gradient kernel."""
        env = dict(zip(self.saved, values, strict=True))
        env.update(zip(self.grad_names, grads, strict=True))
        env[_NEEDS] = needs
        run = self.op.kernels[backend].backward
        assert run is not None
        return as_tuple(run(*[env[name] for name in self.backward.names]))

    def flat_gradients(
        self, needs: int, result: Sequence[Any], values: Sequence[Any], lengths: Sequence[int]
    ) -> list[Tensor | None]:
        """One gradient for every flat argument of the forward, None where there is none."""
        found = dict(zip(self.wrt, result, strict=True))
        sizes = iter(lengths)
        flat: list[Tensor | None] = []
        for argument, value in zip(self.forward.arguments, values, strict=False):
            name = argument.name
            if self.merged is not None and name == self.merged[1]:
                name = self.merged[0]
            present = name in found and needs >> self.wrt.index(name) & 1 and value is not None
            if argument.is_list:
                n = next(sizes)
                flat.extend(found[name] if present else [None] * n)
            else:
                flat.append(found[name] if present else None)
        return flat

    def second(
        self,
        needs: int,
        grads: Sequence[Tensor | None],
        values: Sequence[Any],
        cotangents: Sequence[Any],
    ) -> tuple[list[Tensor | None], list[Any]]:
        """Derivatives of the gradient, by the reference.

        Args:
            cotangents: one for every return of the backward kernel.

        Returns:
            Gradients of the output gradients, and of the forward's arguments.
        """
        inputs = [_materialize(v) for v in values[: len(self.forward.names)]]
        wanted = [
            (i, self.forward.names.index(name))
            for i, name in enumerate(self.wrt)
            if needs >> i & 1 and inputs[self.forward.names.index(name)] is not None
        ]
        places = [place for _, place in wanted]
        given = [i for i, g in enumerate(grads) if g is not None]

        def outputs(*primals: Any) -> tuple[Tensor, ...]:
            full = list(inputs)
            for place, primal in zip(places, primals, strict=True):
                full[place] = primal
            result = as_tuple(self.op.reference(*full))
            return tuple(
                torch.zeros_like(grads[i]) if result[i] is None else result[i]  # type: ignore[arg-type]
                for i in given
            )

        def gradient(output_grads: tuple[Tensor, ...], *primals: Any) -> tuple[Any, ...]:
            return torch.func.vjp(outputs, *primals)[1](output_grads)

        some = tuple(grads[i] for i in given)
        pull: Any = torch.func.vjp(gradient, some, *[inputs[p] for p in places])[1]
        of_grads, *of_primals = pull(tuple(cotangents[i] for i, _ in wanted))
        all_grads: list[Tensor | None] = [None] * len(grads)
        for i, g in zip(given, of_grads, strict=True):
            all_grads[i] = g
        all_inputs: list[Any] = [None] * len(inputs)
        for place, g in zip(places, of_primals, strict=True):
            all_inputs[place] = g
        return all_grads, all_inputs


def functions_of(op: Op) -> Functions | None:
    """Build the Functions of `op`, or None where it has no gradient."""
    if op.backward_signature is None:
        return None
    d = Derivative(op)
    return Functions(
        eager=_eager(d, _gradient(d, mapped=False)),
        functorch=_functorch(d, _gradient(d, mapped=True)),
    )


def _eager(d: Derivative, gradient: Any) -> Any:
    def forward(ctx: Any, backend: str, lengths: tuple[int, ...], *flat: Any) -> Any:
        args = d.forward.unflatten(lengths, flat)
        returns = as_tuple(d.op.kernels[backend].forward(*args))
        _save(ctx, d, backend, lengths, args, returns)
        return returns

    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, d, gradient, grads)

    return _function(d.op.name, forward=forward, backward=backward)


def _functorch(d: Derivative, gradient: Any) -> Any:
    def forward(backend: str, lengths: tuple[int, ...], *flat: Any) -> Any:
        return as_tuple(d.op.kernels[backend].forward(*d.forward.unflatten(lengths, flat)))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        backend, lengths, *flat = inputs
        _save(ctx, d, backend, lengths, d.forward.unflatten(lengths, flat), output)

    def backward(ctx: Any, *grads: Any) -> Any:
        return _backward(ctx, d, gradient, grads)

    return _function(
        f"{d.op.name}_functorch",
        vmap=True,
        forward=forward,
        setup_context=setup_context,
        backward=backward,
    )


def _gradient(d: Derivative, mapped: bool) -> Any:
    """The gradient as a Function of the output gradients and of the saved tensors."""

    def forward(backend: str, needs: int, spec: Spec, *tensors: Any) -> Any:
        grads, values = _split(d, spec, tensors)
        return tuple(_spread(d.kernel(backend, needs, grads, values)))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.needs, ctx.spec, *tensors = inputs
        ctx.present = tuple(t is not None for t in tensors)
        ctx.save_for_backward(*[t for t in tensors if t is not None])

    def backward(ctx: Any, *cotangents: Any) -> Any:
        saved = iter(ctx.saved_tensors)
        tensors = [next(saved) if here else None for here in ctx.present]
        grads, values = _split(d, ctx.spec, tensors)
        gathered = _gather(d, values, cotangents)
        of_grads, of_inputs = d.second(ctx.needs, grads, values, gathered)
        extras = len(values) - len(of_inputs)
        of_values = _spread_like(ctx.spec, [*of_inputs, *[None] * extras])
        return (None, None, None, *of_grads, *of_values)

    return _function(
        f"{d.op.name}_gradient",
        vmap=mapped,
        forward=forward,
        setup_context=setup_context,
        backward=backward,
    )


def _function(name: str, vmap: bool = False, **methods: Callable[..., Any]) -> Any:
    """An autograd Function of that name, which profilers and `grad_fn` then show."""
    body = {key: staticmethod(method) for key, method in methods.items()}
    meta: Any = type(Function)
    return meta(name, (Function,), {"generate_vmap_rule": vmap, **body})


# Saved values travel as the tensors among them plus a `Spec` that says where they stood.

Spec = tuple[tuple[str, Any], ...]


def _pack(values: Sequence[Any]) -> tuple[Spec, list[Tensor]]:
    spec: list[tuple[str, Any]] = []
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            spec.append(("tensor", None))
            tensors.append(value)
        elif isinstance(value, list) and value and isinstance(value[0], Tensor):
            spec.append(("list", len(value)))
            tensors.extend(value)
        else:
            spec.append(("value", value))
    return tuple(spec), tensors


def _unpack(spec: Spec, tensors: Sequence[Tensor]) -> list[Any]:
    rest = iter(tensors)
    values: list[Any] = []
    for kind, content in spec:
        if kind == "tensor":
            values.append(next(rest))
        elif kind == "list":
            values.append([next(rest) for _ in range(content)])
        else:
            values.append(content)
    return values


def _spread_like(spec: Spec, values: Sequence[Any]) -> list[Any]:
    """The values at the places of the tensors of `spec`, lists spread, None spread as Nones."""
    flat: list[Any] = []
    for (kind, content), value in zip(spec, values, strict=True):
        if kind == "tensor":
            flat.append(value)
        elif kind == "list":
            flat.extend(value if value is not None else [None] * content)
    return flat


def _save(
    ctx: Any,
    d: Derivative,
    backend: str,
    lengths: tuple[int, ...],
    args: Sequence[Any],
    returns: Sequence[Any],
) -> None:
    spec, tensors = _pack(d.values_to_save(args, returns))
    ctx.backend, ctx.lengths, ctx.spec = backend, lengths, spec
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*returns[len(d.op.outputs) :])


def _backward(ctx: Any, d: Derivative, gradient: Any, grads: Sequence[Any]) -> Any:
    # an absent output is an empty tensor, and so may its gradient be
    grads = [g if g is None or g.shape != (0,) else None for g in grads[: len(d.op.outputs)]]
    if all(g is None for g in grads):
        return (None,) * len(ctx.needs_input_grad)
    tensors = ctx.saved_tensors
    values = _unpack(ctx.spec, tensors)
    needs = d.needs(ctx.lengths, ctx.needs_input_grad[2:])
    result: Sequence[Any]
    if torch.is_grad_enabled():  # somebody may differentiate again
        flat = gradient.apply(ctx.backend, needs, ctx.spec, *grads, *tensors)
        result = _gather(d, values, flat)
    else:
        result = d.kernel(ctx.backend, needs, grads, values)
    return (None, None, *d.flat_gradients(needs, result, values, ctx.lengths))


def _split(d: Derivative, spec: Spec, tensors: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    n = len(d.op.outputs)
    return list(tensors[:n]), _unpack(spec, tensors[n:])


def _spread(result: Sequence[Any]) -> list[Tensor]:
    return [t for item in result for t in (item if isinstance(item, (list, tuple)) else [item])]


def _gather(d: Derivative, values: Sequence[Any], flat: Sequence[Any]) -> list[Any]:
    """The inverse of `_spread`: one item for every return of the backward kernel."""
    rest = iter(flat)
    named = dict(zip(d.saved, values, strict=True))
    return [
        [next(rest) for _ in named[name]] if declared.is_list else next(rest)
        for name, declared in zip(d.wrt, d.backward.returns, strict=True)
    ]


def default_fake_backward(op: Op) -> Callable[..., Any]:
    """Shapes of the gradients when every one is `empty_like` its argument."""
    assert op.backward_signature is not None
    signature = op.backward_signature

    def fake(*args: Any) -> Any:
        env = dict(zip(signature.names, args, strict=True))
        x = next(t for t in args if isinstance(t, Tensor))
        results: list[Any] = []
        for bit, declared in enumerate(signature.returns):
            value = env[declared.name.removeprefix(_GRAD)]
            wanted = value is not None and env[_NEEDS] >> bit & 1
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


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _absent(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Absent(value.shape, value.dtype, value.device)
    return [_absent(v) for v in value] if isinstance(value, (list, tuple)) else value


def _materialize(value: Any) -> Any:
    if isinstance(value, Absent):
        return value.materialize()
    return [_materialize(v) for v in value] if isinstance(value, list) else value
