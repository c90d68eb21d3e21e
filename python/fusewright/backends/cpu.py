"""The CPU kernels: a shared library beside the package, on torch's stable ABI."""

from __future__ import annotations

from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary

_LIBRARY = KernelLibrary("fusewright_cpu", package="fusewright")

BACKEND = Backend(
    name="cpu",
    devices=("cpu",),
    dispatch_key="CPU",
    load=_LIBRARY.load,
    describe=_LIBRARY.build_info,
)
