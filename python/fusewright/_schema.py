"""What fusewright needs to know of an operator's schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_VALUE_TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int, torch.SymFloat, torch.SymInt),
    "int": (int, torch.SymInt),
    "bool": (bool,),
    "str": (str,),
}


@dataclass(frozen=True)
class Argument:
    """One argument: its name and its type as the schema spells it, such as `Tensor?`."""

    name: str
    type: str

    @property
    def is_tensor(self) -> bool:
        return self.type.startswith("Tensor")

    @property
    def is_list(self) -> bool:
        return self.type == "Tensor[]"

    def accepts(self, value: Any) -> bool:
        """Whether a Python value fits the type."""
        if self.type.endswith("?") and value is None:
            return True
        if self.is_list:
            return isinstance(value, (list, tuple)) and all(isinstance(v, Tensor) for v in value)
        if self.is_tensor:
            return isinstance(value, Tensor)
        allowed = _VALUE_TYPES.get(self.type.rstrip("?"))
        if allowed is None:
            return True  # lists of numbers: the dispatcher checks them
        return isinstance(value, allowed) and (self.type == "bool" or not isinstance(value, bool))


class Signature:
    """A parsed schema, and the flat form of its arguments, in which tensor lists are spread out.

    Autograd sees only the tensors that a Function gets directly, so lists travel spread.
    """

    def __init__(self, name: str, schema: str) -> None:
        parsed = torch._C.parse_schema(name + schema)
        self.text = name + schema
        self.arguments = tuple(Argument(a.name, _type_text(a)) for a in parsed.arguments)
        self.names = tuple(a.name for a in self.arguments)
        self.returns = tuple(Argument(r.name, _type_text(r)) for r in parsed.returns)
        self.mutable = parsed.is_mutable
        self.has_lists = any(a.is_list for a in self.arguments)

    def flatten(self, args: Sequence[Any]) -> tuple[tuple[int, ...], Sequence[Any]]:
        """The lengths of the tensor lists, and the arguments with those lists spread out.

        What is no list though it should be stays as it is, and so do arguments of a wrong number:
        `Op` checks both after this.
        """
        if not self.has_lists or len(args) != len(self.arguments):
            return (), args
        lengths: list[int] = []
        flat: list[Any] = []
        for argument, value in zip(self.arguments, args, strict=True):
            if argument.is_list and isinstance(value, (list, tuple)):
                lengths.append(len(value))
                flat.extend(value)
            else:
                flat.append(value)
        return tuple(lengths), flat

    def unflatten(self, lengths: Sequence[int], flat: Sequence[Any]) -> Sequence[Any]:
        """The inverse of `flatten`."""
        if not self.has_lists:
            return flat
        sizes, rest = iter(lengths), iter(flat)
        return [
            [next(rest) for _ in range(next(sizes))] if a.is_list else next(rest)
            for a in self.arguments
        ]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in one argument: none, itself, or a list's."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (v for v in value if isinstance(v, Tensor))


def cast(args: Sequence[Any], dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments as autocast to `dtype` hands them on; fp64 stays: autocast leaves it alone."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            eligible = value.is_floating_point() and value.dtype is not torch.float64
            return value.to(dtype) if eligible else value
        if isinstance(value, (list, tuple)):
            return [convert(v) for v in value]
        return value

    return tuple(convert(value) for value in args)


def _type_text(argument: Any) -> str:
    text = str(argument.type)
    if text.startswith("Optional["):
        text = text.removeprefix("Optional[").removesuffix("]") + "?"
    return text.replace("List[Tensor]", "Tensor[]")
