"""The Triton kernels: pure Python, compiled at first use for whatever GPU Triton serves.

One file an operator, with functions named as the operator and its backward. Triton is imported
when the backend is loaded, never before. In Triton's interpreter (TRITON_INTERPRET=1) the same
kernels run on CPU tensors, slowly: that is how they are tested without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

import torch

from fusewright.backends import Backend
from fusewright.backends._library import reinstall
from fusewright.errors import BackendLoadError, BackendNotBuiltError

_FLOOR = (3, 4)
# Triton reads the variable when a kernel is defined, and takes these values for true.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _load() -> str:
    if importlib.util.find_spec("triton") is None:
        raise BackendNotBuiltError("triton is not installed", "pip install triton")
    try:
        triton = importlib.import_module("triton")
    except Exception as error:  # whatever a broken installation raises is the reason
        raise BackendLoadError(
            f"triton can't be imported: {type(error).__name__}: {error}",
            reinstall("triton"),
        ) from error
    version = tuple(int(n) for n in triton.__version__.split("+")[0].split(".")[:2])
    if version < _FLOOR:
        needed = ".".join(map(str, _FLOOR))
        raise BackendLoadError(
            f"needs triton >= {needed}, this is {triton.__version__}",
            f'pip install "triton>={needed}"',
        )
    if not _INTERPRETED and not torch.cuda.is_available():
        # nothing is wrong with an installation that has nothing to compile for
        raise BackendNotBuiltError(
            f"torch {torch.__version__} finds no GPU (TRITON_INTERPRET=1 runs the kernels without)"
        )
    from fusewright.backends.triton import _register

    _register.register_all(BACKEND, traceable=not _INTERPRETED)
    return __file__


def _describe() -> dict[str, str]:
    triton = importlib.import_module("triton")
    return {"triton": triton.__version__, "interpreted": str(_INTERPRETED).lower()}


BACKEND = Backend(
    name="triton",
    devices=("cpu",) if _INTERPRETED else ("cuda",),
    dispatch_key="CPU" if _INTERPRETED else "CUDA",
    load=_load,
    describe=_describe,
)
