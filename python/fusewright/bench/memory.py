"""Peak memory of a call.

On the CPU nobody keeps a high-water mark: the resident set grows by whole heaps and shrinks when
it pleases. So one call runs under torch's profiler, which records every allocation of torch's
allocator in order, and without the CPU backend's cache of results, so that theirs are among them.
That is what tensors take; scratch that a library gets from malloc is not in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fusewright.backends import cpu


def peak_mb(call: Callable[[], Any], device: torch.device) -> float:
    """The most MB (10⁶ bytes) that are allocated at once during the call, beyond what was before.

    Outputs count, inputs do not.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    held = peak = 0
    with _no_cache():
        sizes = _allocations(call)
    for size in sizes:
        held += size
        peak = max(peak, held)
    return peak / 1e6


def _allocations(call: Callable[[], Any]) -> list[int]:
    """The bytes of every allocation, and of every release negative, in order."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        cpu_only = [ProfilerActivity.CPU]
        with _silent_stderr():
            # acc_events: without it torch 2.11 warns that it will forget other cycles
            with profile(activities=cpu_only, profile_memory=True, acc_events=True) as profiler:
                call()
            profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    memory = [e for e in events if e["name"] == "[memory]"]
    return [e["args"]["Bytes"] for e in sorted(memory, key=lambda e: e["ts"])]


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
    """Every result comes from torch's allocator."""
    if cpu.BACKEND.error is not None:
        yield
        return
    limit = cpu.cache_limit()
    cpu.set_cache_limit(0)
    try:
        yield
    finally:
        cpu.set_cache_limit(limit)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's C++ side announces itself on stderr at every start and stop."""
    kept = os.dup(2)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
