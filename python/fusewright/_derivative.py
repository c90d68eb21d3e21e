"""The gradient of an `Op`: what to keep of a call, and how to call the gradient kernel with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

if TYPE_CHECKING:
    from fusewright._op import Op

NEEDS = "needs"
GRAD = "grad_"


class Absent(NamedTuple):
    """Stands for an argument that the gradient does not depend on, so that it is not kept alive."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Absent:
        """What stands for `tensor`."""
        return cls(tensor.shape, tensor.dtype, tensor.device)

    def materialize(self) -> Tensor:
        """A stand-in of the same shape that takes no memory."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape)


class Layout(NamedTuple):
    """Where the values of a call stand, when its tensor lists have certain lengths.

    The values of a call are its arguments, lists spread out, then the extra returns that the
    backward wants. All of this is known before the call, so that a call only indexes.

    Attributes:
        kept: the tensors to save, among the values.
        others: the rest of them.
        absent: the tensor arguments that the backward does not name.
        merged: `Op.merged` as places: two among the values, one among the returns; or None.
        bits: pairs of a value and the bit of `needs` that asks for its gradient.
        gradients: pairs of a value and the place of its gradient among the returns of the
            backward, lists spread out.
        kernel: the backward kernel's arguments: places in the output gradients, `needs`, what is
            kept and the others, in one list; slices for lists.
    """

    kept: tuple[int, ...]
    others: tuple[int, ...]
    absent: tuple[int, ...]
    merged: tuple[int, int, int] | None
    bits: tuple[tuple[int, int], ...]
    gradients: tuple[tuple[int, int], ...]
    kernel: tuple[int | slice, ...]


class Derivative:
    """The gradient of one `Op`: what to save, how to call its kernel, how to derive it again."""

    def __init__(self, op: Op) -> None:
        assert op.backward_signature is not None
        self.op = op
        self.forward = op.signature
        self.backward = op.backward_signature
        self.outputs = len(op.outputs)
        self.wrt = tuple(r.name.removeprefix(GRAD) for r in self.backward.returns)
        returns = [r.name for r in self.forward.returns]
        self.extras = tuple(
            i for i, name in enumerate(returns) if i >= self.outputs and name in self.backward.names
        )
        self._layouts: dict[tuple[int, ...], Layout] = {}
        if not self.forward.has_lists:
            self._only_layout = self._make_layout(())

    def layout(self, lengths: tuple[int, ...]) -> Layout:
        """The layout for lists of these lengths."""
        if not self.forward.has_lists:
            return self._only_layout
        if is_compiling():  # a trace would guard on the memo
            return self._make_layout(lengths)
        if lengths not in self._layouts:
            self._layouts[lengths] = self._make_layout(lengths)
        return self._layouts[lengths]

    def _make_layout(self, lengths: tuple[int, ...]) -> Layout:
        sizes = list(lengths)
        returns = [r.name for r in self.forward.returns]
        spans: dict[str, range] = {}
        kept: list[int] = []
        absent: list[int] = []
        end = 0
        for argument in self.forward.arguments:
            span = range(end, end + (sizes.pop(0) if argument.is_list else 1))
            spans[argument.name], end = span, span.stop
            if argument.is_tensor:
                (kept if argument.name in self.backward.names else absent).extend(span)
        for place in self.extras:
            spans[returns[place]] = range(end, end + 1)
            kept.append(end)
            end += 1

        merged = None
        bits: list[tuple[int, int]] = []
        gradients: list[tuple[int, int]] = []
        start = 0
        for bit, name in enumerate(self.wrt):
            pairs = [(value, start + i) for i, value in enumerate(spans[name])]
            start += len(pairs)
            if self.op.merged is not None and name == self.op.merged[0]:
                first, second, total = self.op.merged
                merged = (spans[first].start, spans[second].start, returns.index(total))
                pairs.append((spans[second].start, pairs[0][1]))
            bits.extend((value, 1 << bit) for value, _ in pairs)
            gradients.extend(pairs)

        others = [value for value in range(end) if value not in kept]
        at = {value: self.outputs + 1 + i for i, value in enumerate(kept + others)}
        places: dict[str, int | slice] = {GRAD + name: i for i, name in enumerate(self.op.outputs)}
        places[NEEDS] = self.outputs
        lists = [a.name for a in self.forward.arguments if a.is_list]
        for name, span in spans.items():
            start = at[span.start] if span else 0
            places[name] = slice(start, start + len(span)) if name in lists else start
        return Layout(
            kept=tuple(kept),
            others=tuple(others),
            absent=tuple(absent),
            merged=merged,
            bits=tuple(bits),
            gradients=tuple(gradients),
            kernel=tuple(places[name] for name in self.backward.names),
        )

    def split(
        self, layout: Layout, flat: Sequence[Any], returns: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The values of a call, the tensors to save apart from the others."""
        values = [*flat, *[returns[i] for i in self.extras]]
        if layout.merged is not None:
            first, second, total = layout.merged
            if values[second] is not None:
                values[first] = returns[total]
        for i in layout.absent:
            if values[i] is not None:
                values[i] = Absent.of(values[i])
        return [values[i] for i in layout.kept], [values[i] for i in layout.others]

    @staticmethod
    def join(layout: Layout, tensors: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        """The inverse of `split`: the values."""
        found = dict(zip((*layout.kept, *layout.others), (*tensors, *others), strict=True))
        return [found[i] for i in range(len(found))]

    def kernel(
        self,
        backend: str,
        layout: Layout,
        needs: int,
        grads: Sequence[Tensor | None],
        tensors: Sequence[Any],
        others: Sequence[Any],
    ) -> Sequence[Tensor]:
        """Call the backend's gradient kernel; its returns, lists spread out."""
        run = self.op.kernels[backend].backward
        assert run is not None
        given = [*grads, needs, *tensors, *others]
        result = run(*[given[place] for place in layout.kernel])
        if isinstance(result, Tensor):
            return (result,)
        return [t for r in result for t in as_tuple(r)] if self.forward.has_lists else result

    def second(
        self,
        layout: Layout,
        needs: int,
        lengths: tuple[int, ...],
        grads: Sequence[Tensor | None],
        values: Sequence[Any],
        cotangents: Sequence[Tensor],
    ) -> tuple[list[Tensor | None], list[Any]]:
        """Derivatives of the gradient, by the reference.

        `cotangents` has one for every return of the backward kernel, lists spread out. The result
        is the gradients of the output gradients, and of the values.
        """
        count = len(values) - len(self.extras)
        inputs = [v.materialize() if isinstance(v, Absent) else v for v in values[:count]]
        # where two arguments are merged, the first is saved as their sum and stands for both
        double = layout.merged[1] if layout.merged is not None else None
        needed = {value for value, bit in layout.bits if needs & bit}
        places = [
            (value, place)
            for value, place in layout.gradients
            if value in needed and value != double and inputs[value] is not None
        ]
        given = [i for i, g in enumerate(grads) if g is not None]

        def outputs(*primals: Any) -> tuple[Tensor, ...]:
            full = list(inputs)
            for (value, _), primal in zip(places, primals, strict=True):
                full[value] = primal
            result = as_tuple(self.op.reference(*self.forward.unflatten(lengths, full)))
            return tuple(
                torch.zeros_like(grads[i]) if result[i] is None else result[i]  # type: ignore[arg-type]
                for i in given
            )

        def gradient(output_grads: tuple[Tensor, ...], *primals: Any) -> tuple[Any, ...]:
            return torch.func.vjp(outputs, *primals)[1](output_grads)

        some = tuple(grads[i] for i in given)
        pull: Any = torch.func.vjp(gradient, some, *[inputs[value] for value, _ in places])[1]
        of_grads, *of_primals = pull(tuple(cotangents[place] for _, place in places))
        all_grads: list[Tensor | None] = [None] * len(grads)
        for i, g in zip(given, of_grads, strict=True):
            all_grads[i] = g
        all_values: list[Any] = [None] * len(values)
        for (value, _), g in zip(places, of_primals, strict=True):
            all_values[value] = g
        return all_grads, all_values


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
