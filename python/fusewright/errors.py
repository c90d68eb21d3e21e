"""The errors fusewright raises. Messages read `[op] what is value, must be allowed`."""

from __future__ import annotations

from typing import NoReturn


class ArgumentError(ValueError):
    """An argument that is wrong on every backend."""


class UnsupportedError(NotImplementedError):
    """A valid call that the chosen backend has no kernel for."""


class _BackendError(RuntimeError):
    """A backend that can't serve.

    Attributes:
        reason: why.
        remedy: the command that mends it, empty where none does.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}: {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class BackendNotBuiltError(_BackendError):
    """A backend that this installation does not contain."""


class BackendLoadError(_BackendError):
    """A backend that is installed but could not be loaded."""


def fail(op: str, what: str, was: object, must: str) -> NoReturn:
    """Raise the `ArgumentError` that names the argument, what it was and what is allowed."""
    raise ArgumentError(f"[{op}] {what} is {was}, must {must}")


def require(condition: bool, op: str, what: str, was: object, must: str) -> None:
    """`fail` unless `condition` holds."""
    if not condition:
        fail(op, what, was, must)
