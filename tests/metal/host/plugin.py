"""Gives a process the device "mps" and the backend for it; also a plugin of pytest.

FUSEWRIGHT_FAKE_MPS names what was built: the device, the operators, and the kernels, one a line.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from fusewright.backends import metal


class _Library:
    """In the place of the library that a macOS wheel carries."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> str:
        torch.ops.load_library(str(self.path))
        return str(self.path)

    def build_info(self) -> dict[str, str]:
        info = ctypes.CDLL(str(self.path)).fusewright_build_info
        info.restype = ctypes.c_char_p
        return dict(line.split("=", 1) for line in info().decode().splitlines())


def use(library: str) -> None:
    """Take the operators from another build, before any is imported."""
    metal._LIBRARY = _Library(Path(library))  # type: ignore[assignment]


def _install(device: str, library: str, *kernels: str) -> ctypes.CDLL:
    mock = ctypes.CDLL(device, mode=ctypes.RTLD_GLOBAL)
    for path in kernels:
        mock.mock_load_kernels(path.encode())
    use(library)
    mock.mock_dispatches.restype = ctypes.c_size_t
    return mock


MOCK = _install(*os.environ["FUSEWRIGHT_FAKE_MPS"].splitlines())
