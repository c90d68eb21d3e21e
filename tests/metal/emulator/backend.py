"""The operators on the emulated device: for each `Op` a copy that has this backend alone.

The copies and their dispatcher namespace are the tests' own; nothing else in the process sees them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from emulator import causal_conv1d, haar, norm, wtconv
from emulator.device import Device
from fusewright import backends, ops
from fusewright._op import OPS, Op
from fusewright.backends import Backend

NAME = "emulator"


def implementations() -> dict[str, Callable[..., Any]]:
    """Each kernel operator's function, which takes the device before the arguments."""
    found: dict[str, Callable[..., Any]] = {
        name: getattr(module, name)
        for module in (causal_conv1d, norm)
        for op in dir(module)
        for name in (op, f"{op}_backward")
        if op in ops.names() and hasattr(module, name)
    }
    for dims in (1, 2):
        found[f"haar{dims}d"] = partial(_first, haar.forward, dims)
        found[f"haar{dims}d_backward"] = partial(_first, _without_needs(haar.inverse), dims)
        found[f"ihaar{dims}d"] = partial(_first, haar.inverse, dims)
        found[f"ihaar{dims}d_backward"] = partial(_first, _without_needs(haar.forward), dims)
        found[f"wtconv{dims}d"] = partial(_first, wtconv.forward, dims)
        found[f"wtconv{dims}d_backward"] = partial(_first, wtconv.backward, dims)
    return found


def _first(function: Callable[..., Any], dims: int, device: Device, *args: Any) -> Any:
    return function(device, dims, *args)


def _without_needs(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args[:-1])


def _takes(*args: Any) -> str | None:
    for value in args:
        if isinstance(value, Tensor) and value.dtype is torch.float64:
            return "its kernels take no torch.float64"
    return None


def emulated_ops(device: Device) -> dict[str, Op]:
    """Every operator that has Metal kernels, on the device; made once a process."""
    functions = implementations()
    backend = device.backend = Backend(
        NAME, devices=("cpu",), dispatch_key="CPU", load=lambda: __file__
    )
    originals = ops.load_all()
    installed = backends.installed()
    installed[NAME] = backend
    try:
        emulated: dict[str, Op] = {}
        for name, op in originals.items():
            if name not in functions:
                continue
            for function in filter(functions.get, (name, f"{name}_backward")):
                backend.library.impl(function, partial(functions[function], device), "CPU")
            emulated[name] = dataclasses.replace(op, supports={NAME: _takes})
    finally:
        del installed[NAME]
        OPS.update(originals)
    return emulated
