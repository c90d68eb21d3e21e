"""The Metal kernels: a library in the macOS wheel, on torch's stable ABI, for tensors on `mps`."""

from __future__ import annotations

import sys

import torch

from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary
from fusewright.errors import BackendLoadError, BackendNotBuiltError

_LIBRARY = KernelLibrary("fusewright_metal", package="fusewright")


def _load() -> str:
    path = _LIBRARY.path
    if not path.exists():
        if sys.platform != "darwin":
            raise BackendNotBuiltError(
                f"Metal is Apple's: its kernels are in the wheel for macOS, this is {sys.platform}"
            )
        raise BackendNotBuiltError(
            f"{path} does not exist: this build left the Metal kernels out, which need Xcode's "
            "Metal compiler (xcrun --sdk macosx --find metal)"
        )
    if not torch.backends.mps.is_available():
        raise BackendLoadError(f"{path}: torch {torch.__version__} finds no MPS device")
    return _LIBRARY.load()


def _describe() -> dict[str, str]:
    return _LIBRARY.build_info()


BACKEND = Backend(
    name="metal",
    devices=("mps",),
    dispatch_key="MPS",
    load=_load,
    describe=_describe,
)
