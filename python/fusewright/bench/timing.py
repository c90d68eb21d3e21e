"""Timers, and the order in which the rivals of a row are measured.

The samples of all rivals are drawn in one random order, so that a machine that slows down for a
second slows down all of them, and the median forgets it.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]
Sampler = Callable[[], float]  # seconds a call

_SHORTEST = 1e-3  # s; quicker calls are repeated within a sample, as the clock is not that good
_FEWEST, _MOST = 5, 200  # samples of each rival
_HOST_SAMPLES, _HOST_BATCH = 7, 5
_SLOW, _VERY_SLOW = 0.25, 2.0  # s a call: at least 3 samples, a single one


@dataclass(frozen=True)
class Times:
    """Percentiles over the samples of one rival, in ms."""

    p20: float
    p50: float
    p80: float

    @staticmethod
    def of(samples: list[float]) -> Times:
        """Summarize samples given in seconds."""
        quantiles = torch.tensor(samples, dtype=torch.float64).quantile(
            torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        )
        return Times(*(1e3 * quantiles).tolist())


def measure(
    calls: Mapping[str, Call],
    device: torch.device,
    seconds: float,
    between: Call = lambda: None,
) -> dict[str, Times]:
    """Time every call, interleaved at random.

    Args:
        calls: the rivals, already warm.
        device: where they run.
        seconds: the time for all of them together, which slow ones may exceed.
        between: runs between two samples, untimed.
    """
    make = cuda_sampler if device.type == "cuda" else cpu_sampler
    found: dict[str, list[float]] = {name: [] for name in calls}
    samplers: dict[str, Sampler] = {}
    order: list[str] = []
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        if device.type == "cpu" and time.perf_counter() - start > _VERY_SLOW:
            found[name].append(time.perf_counter() - start)
            continue
        samplers[name] = make(call)
        start = time.perf_counter()
        once = samplers[name]()
        share = seconds / len(calls) / (time.perf_counter() - start)
        order += [name] * min(max(int(share), 3 if once > _SLOW else _FEWEST), _MOST)
        between()
    random.Random(0).shuffle(order)
    gc.collect()
    gc.disable()
    try:
        for name in order:
            found[name].append(samplers[name]())
            between()
    finally:
        gc.enable()
    return {name: Times.of(samples) for name, samples in found.items()}


def cpu_sampler(call: Call) -> Sampler:
    """Wall time of a call, averaged over a millisecond where the call is shorter."""
    start = time.perf_counter()
    call()
    repeats = max(1, int(_SHORTEST / (time.perf_counter() - start)))

    def sample() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    return sample


def cuda_sampler(call: Call) -> Sampler:
    """Time on the GPU, by events, of a captured graph, with a cold L2 cache.

    The graph takes the launches out of the measurement; a call that can't be captured (it
    synchronizes) runs plainly. Overwriting twice the size of L2 before each sample empties it, and
    keeps the GPU busy until the call is queued.
    """
    replay = _capture(call)
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flush = torch.empty(2 * l2, dtype=torch.int8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample() -> float:
        flush.zero_()
        start.record()
        replay()
        end.record()
        end.synchronize()
        return 1e-3 * float(start.elapsed_time(end))

    sample()
    return sample


def host_ms(call: Call) -> float:
    """Time until a call on the GPU returns, in ms: what it costs to queue, not to compute.

    The GPU is waited for between batches, outside the measured time.
    """
    samples = []
    for _ in range(_HOST_SAMPLES):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_HOST_BATCH):
            call()
        samples.append(1e3 * (time.perf_counter() - start) / _HOST_BATCH)
    torch.cuda.synchronize()
    return statistics.median(samples)


def _capture(call: Call) -> Call:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return call
    return graph.replay
