"""Which backends exist, which of them load, and which one the user asked for.

A backend is a module of this folder, or an installed package that announces one through the
entry-point group `fusewright.backends`; either exposes a `Backend`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pkgutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.torch_version import TorchVersion

from fusewright.errors import ArgumentError, BackendLoadError, BackendNotBuiltError

ENTRY_POINTS = "fusewright.backends"
REFERENCE = "reference"


class _Override:
    name: Any = os.environ.get("FUSEWRIGHT_BACKEND") or None


class _ThreadOverride(_Override, threading.local):
    """Of each thread, as torch's own modes are."""


override = _ThreadOverride()
# What torch.compile guards on, which before torch 2.12 does not see what is thread-local: there it
# is what any thread forced last.
_traced: _Override = override if TorchVersion(torch.__version__) >= "2.12" else _Override()


def forced() -> Any:
    """The backend that is forced, or an `Inquiry` of `explain`; None for the default choice."""
    return _traced.name if is_dynamo_compiling() else override.name


@dataclass(eq=False)
class Backend:
    """A way to run operators: a kernel library or Python kernels, in a namespace of its own.

    Attributes:
        name: how users name it; its operators live in `torch.ops.fusewright_<name>`.
        devices: the `torch.device.type`s it serves.
        dispatch_key: the dispatcher key its kernels are registered for.
        load: registers the kernels and returns the file they came from, or raises a
            `BackendNotBuiltError` or `BackendLoadError`.
        distribution: the installed package that carries it.
        describe: versions and features, for `fusewright doctor`; called only after `load`.
    """

    name: str
    devices: tuple[str, ...]
    dispatch_key: str
    load: Callable[[], str]
    distribution: str = "fusewright"
    describe: Callable[[], dict[str, str]] = field(default=dict)

    @property
    def namespace(self) -> str:
        return f"fusewright_{self.name}"

    @functools.cached_property
    def library(self) -> torch.library.Library:
        """The dispatcher namespace in which `Op` defines the schemas."""
        return torch.library.Library(self.namespace, "FRAGMENT")

    @functools.cached_property
    def outcome(self) -> tuple[str | None, Exception | None]:
        """The file that was loaded, or the error that explains why nothing was; tried once."""
        try:
            return self.load(), None
        except (BackendNotBuiltError, BackendLoadError) as error:
            return None, error

    @property
    def file(self) -> str | None:
        return self.outcome[0]

    @property
    def error(self) -> Exception | None:
        return self.outcome[1]


_installed: dict[str, Backend] = {}


def installed() -> dict[str, Backend]:
    """Every backend of this installation by name, loaded or not, and nothing is loaded by asking.

    A package that announces a backend but can't be imported is listed with its error.
    """
    if not _installed:  # no functools.cache: torch.compile warns of it
        _installed.update(_discover())
    return _installed


def _discover() -> dict[str, Backend]:
    found: dict[str, Backend] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "explain" and not module.name.startswith("_"):
            backend = importlib.import_module(f"{__name__}.{module.name}").BACKEND
            found[backend.name] = backend
    for point in entry_points(group=ENTRY_POINTS):
        try:
            backend = point.load()
        except Exception as error:  # whatever a broken add-on raises is its reason, shown later
            backend = _broken(point.name, error)
        known = found.get(backend.name)
        # an add-on takes the place of a backend that this build left out
        if known is None or isinstance(known.error, BackendNotBuiltError):
            found[backend.name] = backend
    # what was compiled ahead of time comes before what is compiled when it is called
    return dict(sorted(found.items(), key=lambda item: item[0] == "triton"))


def _broken(name: str, cause: Exception) -> Backend:
    def load() -> str:
        raise BackendLoadError(
            f"backend {name!r} can't be imported: {type(cause).__name__}: {cause}"
        ) from cause

    return Backend(name=name, devices=(), dispatch_key="", load=load)


def check_name(name: str) -> None:
    """Raise `ArgumentError` unless `name` is a backend that this version knows."""
    known = [REFERENCE, *installed()]
    if name not in known:
        raise ArgumentError(f"[backend] name is {name!r}, must be one of {', '.join(known)}")


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Run every operator inside the block on one backend, in this thread.

    Args:
        name: 'cpu', 'cuda', 'metal', 'triton' or 'reference'; None restores the default choice.

    Raises:
        ArgumentError: no backend has that name.

    An operator that the backend can't serve raises; it never runs elsewhere.
    """
    if name is not None:
        check_name(name)
    before = override.name
    override.name = _traced.name = name
    try:
        yield
    finally:
        override.name = _traced.name = before
