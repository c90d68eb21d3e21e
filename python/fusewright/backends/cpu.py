"""The CPU kernels: a shared library beside the package, on torch's stable ABI."""

from __future__ import annotations

import os

from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary
from fusewright.errors import BackendLoadError

# The instruction sets that the library holds, oldest first; it takes the newest that runs here.
_ISAS = ("baseline", "avx2", "avx512")
_LIBRARY = KernelLibrary("fusewright_cpu", package="fusewright")


def _load() -> str:
    # checked here: an error in the library's own initialisation would end the process
    wish = os.environ.get("FUSEWRIGHT_CPU_ISA") or _ISAS[-1]
    if wish not in _ISAS:
        allowed = ", ".join(_ISAS)
        raise BackendLoadError(f"FUSEWRIGHT_CPU_ISA is {wish!r}, must be one of {allowed}")
    return _LIBRARY.load()


BACKEND = Backend(
    name="cpu",
    devices=("cpu",),
    dispatch_key="CPU",
    load=_load,
    describe=_LIBRARY.build_info,
)
