"""Checks of single values, shared by operators and modules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusewright.errors import fail


def check_integer(op: str, what: str, value: Any, least: int) -> None:
    """Raise `ArgumentError` unless `value` is an integer of at least `least`; a bool is none."""
    if not is_integer(value) or value < least:
        fail(op, what, repr(value), f"be an integer >= {least}")


def is_integer(value: Any) -> bool:
    """Whether `value` is an int, or stands for one while a call is traced; a bool is none."""
    if type(value) is int:  # nearly always, and quicker to tell
        return True
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def check_number(op: str, what: str, value: Any, least: float | None = None) -> None:
    """Raise `ArgumentError` unless `value` is a number, not NaN, of at least `least`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= (-math.inf if least is None else least):  # NaN neither
        fail(op, what, repr(value), "be a number" + ("" if least is None else f" >= {least:g}"))


def check_floating(op: str, name: str, value: Tensor) -> None:
    """Raise `ArgumentError` unless the tensor is of a floating-point type."""
    if not value.dtype.is_floating_point:
        fail(op, f"{name}.dtype", value.dtype, "be a floating-point type")


def check_tensor(op: str, name: str, value: Any) -> None:
    """Raise `ArgumentError` unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        fail(op, name, describe(value), "be Tensor")


def describe(value: Any) -> str:
    """A value and its type, for a message; of a tensor not the elements."""
    return "a Tensor" if isinstance(value, Tensor) else f"{value!r} ({type(value).__name__})"
