"""The structs of kernels_metal/args.h, as ctypes have them: read from the header, so that none is
written twice."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import torch
from torch import Tensor

from emulator.build import KERNELS

_TYPES = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "float": ctypes.c_float}

DTYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat"}
NONE = -1
_CODES = {
    torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int32: 3, torch.int64: 4,
}  # fmt: skip
ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")


def _read() -> dict[str, type[ctypes.Structure]]:
    text = re.sub(r"//[^\n]*", "", (KERNELS / "args.h").read_text())
    numbers = {name: int(value) for name, value in re.findall(r"(\w+) = (-?\d+)", text)}
    types: dict[str, Any] = dict(_TYPES)
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, flags=re.S):
        fields: list[tuple[str, Any]] = []
        for declaration in filter(None, map(str.strip, body.split(";"))):
            kind, variables = declaration.split(None, 1)
            for variable in variables.split(","):
                field, _, size = variable.strip().rstrip("]").partition("[")
                count = numbers[size] if size in numbers else int(size or 0)
                fields.append((field, types[kind] * count if size else types[kind]))
        types[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return {name: kind for name, kind in types.items() if name not in _TYPES}


STRUCTS = _read()


def code(value: Tensor | torch.dtype | None) -> int:
    """The FW_ constant of a dtype, FW_NONE for what is absent."""
    if value is None:
        return NONE
    return _CODES[value.dtype if isinstance(value, Tensor) else value]


def make(name: str, **fields: object) -> ctypes.Structure:
    """A struct with the given fields; strides may come as lists."""
    args = STRUCTS[name]()
    for field, value in fields.items():
        if isinstance(value, (list, tuple)):
            getattr(args, field)[:] = value
        else:
            setattr(args, field, value)
    return args
