"""Loading of a compiled kernel library that came with a wheel."""

from __future__ import annotations

import ctypes
import importlib.metadata
import struct
import sys
from importlib import resources
from pathlib import Path

import torch

from fusewright.errors import BackendLoadError, BackendNotBuiltError

_FLOOR = (2, 10)
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


class KernelLibrary:
    """A plain shared library that implements operators, at `<package>/lib/`.

    `distribution` is the installed package that brought it.
    """

    def __init__(self, name: str, package: str, distribution: str = "fusewright") -> None:
        self.name = name
        self.package = package
        self.distribution = distribution

    @property
    def path(self) -> Path:
        prefix = "" if sys.platform == "win32" else "lib"
        # of an editable install, `files` is several folders until a file is named
        folder = resources.files(self.package).joinpath("lib")
        return Path(str(folder.joinpath(f"{prefix}{self.name}{_SUFFIX}")))

    def load(self) -> str:
        """Load the library into the process and return its path."""
        if not self.path.exists():
            raise BackendNotBuiltError(f"{self.path} does not exist: this build left it out")
        version = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
        if version < _FLOOR:
            raise BackendLoadError(
                f"{self.path} needs torch >= {_FLOOR[0]}.{_FLOOR[1]}, this is {torch.__version__}",
                f'pip install "torch>={_FLOOR[0]}.{_FLOOR[1]}"',
            )
        if _truncated(self.path):
            raise BackendLoadError(f"{self.path} is incomplete", reinstall(self.distribution))
        try:
            torch.ops.load_library(str(self.path))
        except OSError as error:
            reason = error.__cause__ or error  # torch's own text does not tell
            raise BackendLoadError(
                f"{self.path} did not load under torch {torch.__version__}: {reason}"
            ) from error
        return str(self.path)

    def build_info(self) -> dict[str, str]:
        """What the library says of its build and of the instruction set it chose."""
        info = ctypes.CDLL(str(self.path)).fusewright_build_info
        info.restype = ctypes.c_char_p
        lines = info().decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def call(self, name: str, *arguments: int) -> int:
        """A function of the library that takes and returns 64-bit integers."""
        function = getattr(ctypes.CDLL(str(self.path)), name)
        function.argtypes = [ctypes.c_int64] * len(arguments)
        function.restype = ctypes.c_int64
        return int(function(*arguments))


def reinstall(distribution: str) -> str:
    """The command that brings the files of an installed distribution anew."""
    try:
        version = f"=={importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return f"pip install --force-reinstall --no-deps {distribution}{version}"


def _truncated(path: Path) -> bool:
    """Whether a 64-bit ELF file ends before its section table, which comes last.

    The loader would map what is missing and end the process with a bus error.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head.startswith(b"\x7fELF"):
        return not head
    if len(head) < 64:
        return True
    (table,) = struct.unpack_from("<Q", head, 0x28)
    entry, count = struct.unpack_from("<HH", head, 0x3A)
    return path.stat().st_size < table + entry * count
