"""The CUDA kernels: a library of the add-on wheel, or of a local build with FUSEWRIGHT_CUDA=ON."""

from __future__ import annotations

import torch

from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary
from fusewright.errors import BackendLoadError, BackendNotBuiltError

_ADD_ON = "fusewright[cu13]"


def cuda_backend(package: str, distribution: str) -> Backend:
    """The backend whose library lies in `package`, which `distribution` installed."""
    library = KernelLibrary("fusewright_cuda", package=package)

    def load() -> str:
        if not library.path.exists():
            raise BackendNotBuiltError(
                f'{library.path} does not exist: pip install "{_ADD_ON}" brings the CUDA kernels'
            )
        # The library needs symbols that only a CUDA build of torch has.
        if torch.version.cuda is None:
            raise BackendLoadError(
                f"{library.path} needs a CUDA build of torch, this is {torch.__version__}"
            )
        if not torch.cuda.is_available():
            raise BackendLoadError(f"{library.path}: torch {torch.__version__} finds no GPU")
        return library.load()

    return Backend(
        name="cuda",
        devices=("cuda",),
        dispatch_key="CUDA",
        load=load,
        distribution=distribution,
        describe=library.build_info,
    )


BACKEND = cuda_backend(package="fusewright", distribution="fusewright")
