"""The CPU kernels: a shared library beside the package, on torch's stable ABI.

On Linux, with torch 2.11 and later, the memory of a freed result of 8 MiB and more is kept for the
next results, as torch keeps that of a GPU: what the system maps anew it has to clear, which takes
longer than most kernels. All but the newest 256 MiB of it the system may take when it runs short,
and a fork gives all of it back. `FUSEWRIGHT_CPU_CACHE_MB` is how much is kept, 1000 if unset; 0
leaves all results to torch's allocator. The storage of such a result can't be resized.
"""

from __future__ import annotations

import os
import sys

import torch

from fusewright.backends import Backend
from fusewright.backends._library import KernelLibrary
from fusewright.errors import BackendLoadError, UnsupportedError, require

# The instruction sets that the library holds, oldest first; it takes the newest that runs here.
_ISAS = ("baseline", "avx2", "avx512")
_LIBRARY = KernelLibrary("fusewright_cpu", package="fusewright")
_MB = 10**6
_MOST = 10**12  # MB; far below what the library's integers hold


def _load() -> str:
    # checked here: an error in the library's own initialisation would end the process
    wish = os.environ.get("FUSEWRIGHT_CPU_ISA") or _ISAS[-1]
    if wish not in _ISAS:
        allowed = ", ".join(_ISAS)
        raise BackendLoadError(f"FUSEWRIGHT_CPU_ISA is {wish!r}, must be one of {allowed}")
    limit = os.environ.get("FUSEWRIGHT_CPU_CACHE_MB")
    if limit and not (limit.isascii() and limit.isdecimal() and int(limit) <= _MOST):
        raise BackendLoadError(
            f"FUSEWRIGHT_CPU_CACHE_MB is {limit!r}, must be a whole number of MB, 0 for no cache"
        )
    file = _LIBRARY.load()
    if limit:
        _LIBRARY.call("fusewright_set_cache_limit", int(limit) * _MB)
    return file


def _describe() -> dict[str, str]:
    limit = _LIBRARY.call("fusewright_cache_limit")
    kept = f"{limit / _MB:g} MB" if limit >= 0 else "none: needs Linux and torch >= 2.11"
    return {**_LIBRARY.build_info(), "result cache": kept}


BACKEND = Backend(
    name="cpu",
    devices=("cpu",),
    dispatch_key="CPU",
    load=_load,
    describe=_describe,
)


def _call(name: str, *arguments: int) -> int:
    if BACKEND.error is not None:
        raise BACKEND.error
    return _LIBRARY.call(name, *arguments)


def set_cache_limit(megabytes: float) -> None:
    """Keep at most so much memory of freed results, and give back what is beyond it.

    Args:
        megabytes: at least 0, in MB (10⁶ bytes); 0 leaves all results to torch's allocator.

    Raises:
        ArgumentError: `megabytes` is negative or no finite number.
        UnsupportedError: it is not 0 and nothing can be kept: off Linux, or before torch 2.11.
        BackendNotBuiltError, BackendLoadError: there are no CPU kernels.

    The limit is the process's, for all threads. Results in use do not count.
    """
    number = isinstance(megabytes, (int, float)) and not isinstance(megabytes, bool)
    valid = number and 0 <= megabytes <= _MOST
    require(valid, "set_cache_limit", "megabytes", repr(megabytes), f"be from 0 to {_MOST}")
    if megabytes > 0 and _call("fusewright_cache_limit") < 0:
        raise UnsupportedError(
            f"[set_cache_limit] megabytes is {megabytes}, must be 0: to keep results needs Linux "
            f"and torch >= 2.11, this is {sys.platform} and torch {torch.__version__}"
        )
    _call("fusewright_set_cache_limit", int(megabytes * _MB))


def cache_limit() -> float:
    """The most memory of freed results that is kept, in MB (10⁶ bytes); 0 where none is.

    Raises:
        BackendNotBuiltError, BackendLoadError: there are no CPU kernels.
    """
    return max(_call("fusewright_cache_limit"), 0) / _MB


def cached_memory() -> float:
    """The memory of freed results that is kept now, in MB (10⁶ bytes).

    Raises:
        BackendNotBuiltError, BackendLoadError: there are no CPU kernels.
    """
    return _call("fusewright_cached_bytes") / _MB


def empty_cache() -> None:
    """Give the memory of freed results back to the system, as `torch.cuda.empty_cache` does.

    Raises:
        BackendNotBuiltError, BackendLoadError: there are no CPU kernels.
    """
    _call("fusewright_empty_cache")
