"""Fused kernels for PyTorch, one thin layer over whichever backend was built.

Every operator is a function of this package (`fusewright.rms_norm`, ...), defined in
`fusewright/ops/<name>.py` and loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from fusewright.errors import (
    ArgumentError,
    BackendLoadError,
    BackendNotBuiltError,
    UnsupportedError,
)

__all__ = [
    "ArgumentError",
    "BackendLoadError",
    "BackendNotBuiltError",
    "UnsupportedError",
    "explain",
    "use_backend",
]

_LAZY = {"explain": "fusewright.backends.explain", "use_backend": "fusewright.backends"}
_SUBPACKAGES = ("backends", "bench", "models", "nn", "ops")


def __getattr__(name: str) -> Any:
    """Import what is asked for: a subpackage, a helper of `_LAZY`, or an operator."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"fusewright.{name}")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("fusewright")
        except PackageNotFoundError:  # run from a source tree
            value = "0+source"
    elif name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"fusewright.ops.{name}"):
        value = getattr(importlib.import_module(f"fusewright.ops.{name}"), name)
    else:
        raise AttributeError(f"module 'fusewright' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from fusewright import ops

    return sorted({*globals(), *__all__, *_SUBPACKAGES, *ops.names()})
