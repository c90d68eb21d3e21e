"""The autograd Function of an eager call, written for speed: the host pays for it at every step.

What the types of the arguments decide is worked out once, in a `Plan`; a call only picks values by
place. Beside `_autograd`'s Functions, which serve what traces and transforms, this one

* gets the call as one object, and of the arguments only the tensors, for autograd to see;
* returns None for an output that the call does not have, so that autograd wraps nothing for it;
* is applied without the Python of `Function.apply`, which is for functorch's transforms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function

from fusewright._derivative import Absent, Derivative, as_tuple

Pick = Callable[[Sequence[Any]], Sequence[Any]]

# Before torch 2.14, `Function.apply` is Python around that of its base. Where no transform of
# functorch is at work, it only unwraps tensors that outlived one; `unwrapped` does that here.
_LEAN = isinstance(vars(Function)["apply"], classmethod) and hasattr(
    torch._C._functorch, "unwrap_if_dead"
)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


unwrapped: Callable[[Tensor], Tensor] = torch._C._functorch.unwrap_if_dead if _LEAN else _itself


class Plan:
    """What is known of calls with arguments of certain types, and how they go through autograd.

    Attributes:
        places: where tensors are among the arguments, lists spread out.
        lengths: those of the lists.
        tensors: picks them.
        saved: picks what to save from these tensors, the returns and a None, in one sequence.
        rest: picks what else the gradient needs from the arguments, lists spread out.
        absent: which of the rest are tensors, of which only the shape is kept.
        arguments: picks the gradient kernel's arguments from the output gradients, `needs`, the
            saved and the rest, in one sequence.
        gradients: for the inputs that want one, `needs`, and what picks the gradient of every
            input from the returns of the gradient kernel and a None, in one sequence.
    """

    def __init__(self, d: Derivative | None, lengths: tuple[int, ...], flat: Sequence[Any]) -> None:
        self.places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        if d is None:
            return
        self.lengths = lengths
        self.tensors = _picker(self.places)
        self._layout = layout = d.layout(lengths)
        returns = len(self.places)
        source = {value: i for i, value in enumerate(self.places)}
        source |= {len(flat) + i: returns + place for i, place in enumerate(d.extras)}
        if layout.merged is not None and layout.merged[1] in source:
            source[layout.merged[0]] = returns + layout.merged[2]
        self.saved = _picker([source.get(value, -1) for value in layout.kept])
        self.rest = _picker(layout.others)
        self.absent = [layout.others.index(i) for i in layout.absent if i in source]
        self.arguments = _picker(layout.kernel)
        self.gradients: dict[tuple[bool, ...], tuple[int, Pick]] = {}

    def find_gradients(self, wanted: tuple[bool, ...]) -> tuple[int, Pick]:
        """What `gradients` has for a backward that these inputs of the Function ask for."""
        input_of = {value: 1 + i for i, value in enumerate(self.places) if wanted[1 + i]}
        needs = 0
        for value, bit in self._layout.bits:
            needs |= bit if value in input_of else 0
        places = [-1] * len(wanted)
        for value, place in self._layout.gradients:
            if value in input_of:
                places[input_of[value]] = place
        self.gradients[wanted] = needs, _picker(places)
        return self.gradients[wanted]


def eager(d: Derivative, gradient: Any) -> Callable[..., Any]:
    """A function that runs a call and lets autograd know of it; it returns the user's outputs.

    It takes a tuple of the backend, the plan, the arguments, and these with lists spread out, and
    then the tensors among them, `unwrapped`. The Function `gradient` has the second derivatives.
    """
    kernels, outputs, has_lists = d.op.direct, d.outputs, d.forward.has_lists
    one_return, one_gradient = len(d.forward.returns) == 1, len(d.backward.returns) == 1

    def forward(ctx: Any, call: tuple[str, Plan, Any, Any], *tensors: Tensor) -> Any:
        backend, plan, args, flat = call
        returns = kernels[backend].forward(*args)
        if one_return:
            returns = (returns,)
        ctx.save_for_backward(*plan.saved((*tensors, *returns, None)))
        ctx.set_materialize_grads(False)
        rest = plan.rest(flat)
        if plan.absent:
            rest = [Absent.of(v) if i in plan.absent else v for i, v in enumerate(rest)]
        ctx.call = backend, plan, rest
        if outputs == 1:
            return returns[0]
        results = [returns[0]]
        for y in returns[1:outputs]:
            # where x is empty, an output that the call has may look the same
            absent = y.numel() == 0 and y.dim() == 1 and tensors[0].numel() > 0
            results.append(None if absent else y)
        return tuple(results)

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        backend, plan, rest = ctx.call
        wanted = ctx.needs_input_grad
        for g in grads:
            if g is not None:
                break
        else:
            return (None,) * len(wanted)
        needs, pick = plan.gradients.get(wanted) or plan.find_gradients(wanted)
        if is_grad_enabled():  # somebody may differentiate again
            result = gradient.apply(
                backend, needs, plan.lengths, tuple(rest), *grads, *ctx.saved_tensors
            )
        else:
            run: Any = kernels[backend].backward
            result = run(*plan.arguments([*grads, needs, *ctx.saved_tensors, *rest]))
            if has_lists:
                result = [t for r in as_tuple(result) for t in as_tuple(r)]
            elif one_gradient:
                result = (result,)
        return pick((*result, None))

    function = make_function(d.op.name, forward=forward, backward=backward)
    if hasattr(function, "_backward_cls"):  # whose `apply` would only look for `backward`
        function._backward_cls.apply = backward
    return super(Function, function).apply if _LEAN else function.apply


def make_function(name: str, vmap: bool = False, **methods: Callable[..., Any]) -> Any:
    """An autograd Function of that name, which profilers and `grad_fn` then show."""
    body = {key: staticmethod(method) for key, method in methods.items()}
    meta: Any = type(Function)
    return meta(name, (Function,), {"generate_vmap_rule": vmap, **body})


def _picker(places: Sequence[int | slice]) -> Pick:
    """`itemgetter`, which gives a tuple for whatever number of places."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[place] for place in places])
