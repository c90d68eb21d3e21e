"""The CUDA kernels: a library of the add-on wheel, or of a local build with FUSEWRIGHT_CUDA=ON."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from typing import Literal

import torch

import fusewright
from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary
from fusewright.errors import BackendLoadError, BackendNotBuiltError

_BASE = "fusewright"
_ADD_ON = "fusewright[cu13]"


def cuda_backend(package: str, distribution: str) -> Backend:
    """The backend whose library lies in `package`, which `distribution` installed."""
    library = KernelLibrary("fusewright_cuda", package=package, distribution=distribution)

    def load() -> str:
        if not library.path.exists():
            raise BackendNotBuiltError(
                f"{library.path} does not exist, the CUDA kernels are an add-on",
                f'pip install "{_ADD_ON}"',
            )
        if distribution != _BASE:
            _check_version(distribution)
        # The library needs symbols that only a CUDA build of torch has.
        if torch.version.cuda is None:
            raise BackendLoadError(
                f"{library.path} needs a CUDA build of torch, this is {torch.__version__}",
                f'pip install --force-reinstall "torch=={torch.__version__.split("+")[0]}"',
            )
        if not torch.cuda.is_available():
            raise BackendLoadError(f"{library.path}: torch {torch.__version__} finds no GPU")
        file = library.load()
        _check_gpus(file, library.build_info()["architectures"])
        return file

    return Backend(
        name="cuda",
        devices=("cuda",),
        dispatch_key="CUDA",
        load=load,
        distribution=distribution,
        describe=library.build_info,
    )


def _check_version(distribution: str) -> None:
    """The kernels have the arguments of one version's schemas, which nothing checks in a call."""
    version = importlib.metadata.version(distribution)
    if fusewright.__version__ not in (version, "0+source"):  # a source tree has no version
        raise BackendLoadError(
            f"{distribution} {version} is installed beside {_BASE} {fusewright.__version__}, "
            "must be of the same version",
            f'pip install "{_ADD_ON}=={fusewright.__version__}"',
        )


def _check_gpus(file: str, architectures: str) -> None:
    """Raise if no GPU of this machine can run the library's code."""
    gpus = {
        torch.cuda.get_device_name(i): torch.cuda.get_device_capability(i)
        for i in range(torch.cuda.device_count())
    }
    if not any(code_for(architectures, capability) for capability in gpus.values()):
        found = ", ".join(f"{name} (sm_{10 * c[0] + c[1]})" for name, c in gpus.items())
        triton = importlib.util.find_spec("triton")
        # nothing is broken: the wheel has no kernel for this GPU, another backend has
        raise BackendNotBuiltError(
            f"{file} holds code for {architectures}, not for {found}, which Triton serves",
            "" if triton else "pip install triton",
        )


def code_for(architectures: str, capability: tuple[int, int]) -> Literal["binary", "PTX"] | None:
    """What a library for these architectures has for a GPU of that compute capability.

    Args:
        architectures: as CMake writes them: `80-real, 90a-real, 120`. Code for one serves later
            minor versions too, with an `a` that one alone; without `-real` there is also PTX, from
            which the driver makes code for everything that comes after, when it is first called.
    """
    best: Literal["binary", "PTX"] | None = None
    for text in architectures.split(", "):
        found = re.fullmatch(r"(\d+)(\d)(a?)(-real)?", text)
        if found is None:
            raise ValueError(f"no architecture of a CUDA library: {text!r}")
        own = int(found[1]), int(found[2])
        specific, only_binary = bool(found[3]), bool(found[4])
        same_major = own[0] == capability[0] and own < capability and not specific
        if own == capability or same_major:
            return "binary"
        if not specific and not only_binary and own < capability:
            best = "PTX"
    return best


BACKEND = cuda_backend(package="fusewright", distribution=_BASE)
