"""Registers the kernels with the dispatcher, and shows them to torch.compile."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusewright.backends import Backend
from fusewright.backends.triton._launch import tracing


def register_all(backend: Backend, traceable: bool) -> None:
    """Register every operator's functions, which have the names that the schemas have.

    Args:
        traceable: whether torch.compile can look into the kernels, which it can't when they are
            interpreted.

    `torch.library.triton_op` would define the schemas itself, and infer them from annotations;
    here `Op` defines them for every backend, so its two parts are done by hand: a kernel for the
    device, and a rule by which functionalisation replaces the operator with its Triton launches.
    """
    package = __package__ or ""
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for name in (info.name, f"{info.name}_backward"):
            function = getattr(module, name, None)
            if function is None:
                continue
            backend.library.impl(name, _on_its_device(function), backend.dispatch_key)
            if traceable:
                stays_whole = getattr(module, "stays_whole", lambda *args: False)
                _show_to_compiler(backend, name, function, stays_whole)


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device: make that the tensors'."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        device = next(a for a in args if isinstance(a, Tensor)).device
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return function(*args)
        with torch.cuda.device(device):
            return function(*args)

    return run


def _show_to_compiler(
    backend: Backend,
    name: str,
    function: Callable[..., Any],
    stays_whole: Callable[..., bool],
) -> None:
    from torch._subclasses.functional_tensor import FunctionalTensorMode

    def rule(mode: Any, op: Any, types: Sequence[Any], args: Any, kwargs: Any) -> Any:
        # an exported program keeps the operator, which is what can be serialised
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        if custom_triton_ops_decomposition_disabled() or stays_whole(name, *args):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode, tracing():
            return function(*args, **kwargs)

    torch.library.register_torch_dispatch(
        f"{backend.namespace}::{name}", FunctionalTensorMode, rule, lib=backend.library
    )
