"""How kernels are launched: directly, or into the graph that torch.compile traces."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Of elements; a call on fewer takes about as long as its launch, whatever the blocks.
UNTUNED = 2**20


class _State(threading.local):
    tracing = False


_state = _State()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Launches inside this block become nodes of the graph being traced."""
    before = _state.tracing
    _state.tracing = True
    try:
        yield
    finally:
        _state.tracing = before


def is_tracing() -> bool:
    """Whether launches become nodes of a graph."""
    return _state.tracing


def kernel(function: Any) -> Any:
    """The kernel to index with a grid and call."""
    return torch.library.wrap_triton(function) if _state.tracing else function


def autotune(
    configs: list[dict[str, int]], key: list[str], prune: Callable[..., Any] | None = None
) -> Callable[[Any], Any]:
    """`triton.autotune` over block sizes and warps, whose choice is kept on disk.

    The interpreter runs the last one, which should be the smallest.
    """
    import triton

    def config(values: dict[str, int]) -> Any:
        meta = {k: v for k, v in values.items() if k not in ("num_warps", "num_stages")}
        return triton.Config(
            meta, num_warps=values.get("num_warps", 4), num_stages=values.get("num_stages", 2)
        )

    chosen = configs[-1:] if triton.knobs.runtime.interpret else configs
    prune_by = None if prune is None else {"early_config_prune": prune}
    return triton.autotune(
        [config(c) for c in chosen], key=key, prune_configs_by=prune_by, cache_results=True
    )


def launch_tuned(function: Any, grid: Any, small: bool, *args: Any, **meta: Any) -> None:
    """Launch an autotuned kernel; a small call takes the smallest blocks that suit it, untimed."""
    if not small:
        kernel(function)[grid](*args, **meta)
        return
    given = dict(zip(function.arg_names, args, strict=False))
    block = function.early_config_prune(function.configs, given, **meta)[-1]
    options = {"num_warps": block.num_warps, "num_stages": block.num_stages}
    kernel(function.fn)[grid](*args, **meta, **block.kwargs, **options)


@functools.cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def processors(x: Tensor) -> int:
    """How many programs the device of x runs side by side; few in the interpreter."""
    if x.device.type != "cuda":
        return 2
    return _processors(torch.cuda.current_device() if x.device.index is None else x.device.index)


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n; blocks have such sizes."""
    return 1 << max(int(n) - 1, 0).bit_length()


def none_like(x: Tensor) -> Tensor:
    """What stands for a gradient that nobody needs, or an output that this call does not have."""
    return x.new_empty(0)
