"""The CPU backend keeps the memory of freed results: nobody may notice but by the clock."""

from __future__ import annotations

import os
import queue
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fusewright as fw
from cached_results import COLUMNS, HUGE, MARKS, ROWS, norm
from fusewright import ArgumentError
from fusewright.backends import cpu
from fusewright.bench.memory import peak_mb

pytestmark = MARKS


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_next_result_takes_the_memory_of_the_last() -> None:
    y = norm()
    at = y.data_ptr()
    assert at % HUGE == 0
    assert cpu.cached_memory() == 0
    view = y[5:]
    del y
    assert cpu.cached_memory() == 0  # a view holds it
    del view
    assert cpu.cached_memory() == ROWS * COLUMNS * 4 / 1e6
    again = norm()
    assert again.data_ptr() == at
    assert cpu.cached_memory() == 0


def test_the_first_block_of_the_best_size_is_taken() -> None:
    results = [norm(rows) for rows in (4096, 4608, 4608, 5120)]
    best = sorted(y.data_ptr() for y in results[1:3])
    random.shuffle(results)  # in whatever order they are freed
    results.clear()
    kept = [norm(4500) for _ in range(2)]
    assert [y.data_ptr() for y in kept] == best


@pytest.mark.parametrize(("rows", "fits"), [(4096, True), (4608, True), (4609, False)])
def test_a_block_serves_what_is_an_eighth_smaller(rows: int, fits: bool) -> None:
    y = norm(rows)
    at = y.data_ptr()
    del y
    assert (norm(4096).data_ptr() == at) is fits


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1])
def test_smaller_results_are_torchs(rows: int) -> None:
    y = norm(rows)
    y.untyped_storage().resize_(y.untyped_storage().nbytes() + 4)
    del y
    assert cpu.cached_memory() == 0


LARGE: dict[str, Callable[[], tuple[Callable[..., Any], list[Tensor]]]] = {
    "rms_norm": lambda: (fw.rms_norm, [torch.randn(ROWS, COLUMNS), torch.randn(COLUMNS)]),
    "rms_norm, odd rows": lambda: (fw.rms_norm, [torch.randn(2101, 1027), torch.randn(1027)]),
    "rms_norm with residual": lambda: (
        lambda x, w, r: fw.rms_norm(x, w, residual=r),
        [torch.randn(ROWS, COLUMNS), torch.randn(COLUMNS), torch.randn(ROWS, COLUMNS)],
    ),
    "layer_norm": lambda: (
        lambda x, w: fw.layer_norm(x, w, activation="relu"),
        [torch.randn(ROWS + 3, COLUMNS), torch.randn(COLUMNS)],
    ),
    "causal_conv1d": lambda: (
        lambda x, w: fw.causal_conv1d(x, w, activation="silu"),
        [torch.randn(2, 33, 2**15), torch.randn(33, 4)],
    ),
    "causal_conv1d, channel-last": lambda: (
        lambda x, w: fw.causal_conv1d(x, w, activation="silu"),
        [torch.randn(2, 2**15, 33).transpose(1, 2), torch.randn(33, 4)],
    ),
    "linear_act": lambda: (
        lambda x, w, b: fw.linear_act(x, w, b, activation="gelu", backend="cpu"),
        [torch.randn(ROWS, 32), torch.randn(COLUMNS, 32), torch.randn(COLUMNS)],
    ),
    "haar2d": lambda: (fw.haar2d, [torch.randn(1, 8, 513, 512)]),
    "ihaar2d": lambda: (fw.ihaar2d, [torch.randn(1, 32, 257, 256)]),
    "haar1d": lambda: (fw.haar1d, [torch.randn(2, 8, 2**18)]),
    "ihaar1d": lambda: (fw.ihaar1d, [torch.randn(2, 16, 2**17)]),
    "wtconv2d": lambda: (wtconv2d, [torch.randn(2, 16, 257, 256), torch.randn(16, 1, 5, 5)]),
    "wtconv2d, channels_last": lambda: (
        wtconv2d,
        [
            torch.randn(2, 16, 257, 256).to(memory_format=torch.channels_last),
            torch.randn(16, 1, 5, 5),
        ],
    ),
}


def wtconv2d(x: Tensor, weight: Tensor) -> Tensor:
    channels = x.size(1)
    wavelet, scale = torch.ones(4 * channels, 1, 5, 5), torch.ones(1, channels, 1, 1)
    return fw.wtconv2d(x, weight, None, scale, [wavelet], [torch.ones(1, 4 * channels, 1, 1)])


@pytest.mark.parametrize("name", LARGE)
def test_results_are_those_of_fresh_memory(name: str) -> None:
    """To the bit, in layout as in value, whatever was in the memory before."""
    function, inputs = LARGE[name]()
    inputs = [x.detach().requires_grad_() for x in inputs]

    def results() -> list[Tensor]:
        outputs = function(*inputs)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        roots = [torch.ones_like(y) for y in outputs]
        return [*outputs, *torch.autograd.grad(outputs, inputs, roots)]

    cpu.set_cache_limit(0)
    expected = results()
    cpu.set_cache_limit(1000)
    kept = results()
    for t in kept:
        t.detach().fill_(float("nan"))
    del t, kept
    before = cpu.cached_memory()
    assert before > 0
    found = results()
    assert cpu.cached_memory() < before
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
        assert a.untyped_storage().nbytes() == b.untyped_storage().nbytes()
        assert a.device == b.device


LAYOUTS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "every other": lambda x: x[:, :, ::2],
    "sliced": lambda x: x[:, 1:],
    "expanded": lambda x: x[:, :1].expand(-1, 80, -1),
    "permuted": lambda x: x.permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_those_of_empty_like(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(8, 34, 2**14))
    y = fw.causal_conv1d(x, torch.randn(x.size(1), 3), backend="cpu")
    assert y.data_ptr() % HUGE == 0
    assert y.stride() == torch.empty_like(x).stride()


def test_held_results_are_never_overwritten() -> None:
    rng = random.Random(0)
    held: list[tuple[Tensor, Tensor]] = []
    for _ in range(40):
        if len(held) == 20:
            held.pop(rng.randrange(20))
        x = torch.randn(ROWS + rng.randrange(600), COLUMNS)
        held.append((norm(x=x), x))
        rng.shuffle(held)
    assert len({y.data_ptr() for y, _ in held}) == 20
    for y, x in held:
        torch.testing.assert_close(y, fw.rms_norm(x, backend="reference"))


def test_threads_that_make_and_free() -> None:
    """Also results that another thread frees."""
    passed: queue.Queue[Tensor] = queue.Queue()
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(15):
            value = float(seed * 100 + i + 1)
            y = fw.linear_act(torch.full((ROWS, 1), value), torch.ones(COLUMNS, 1), backend="cpu")
            if not bool((y == value).all()):
                wrong.append(seed)
            passed.put(y)
            if i % 2:
                passed.get()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_at_most_the_limit_is_kept() -> None:
    results = [norm(4096) for _ in range(10)]
    pointers = [y.data_ptr() for y in results]
    cpu.set_cache_limit(40)  # two of 16.8 MB
    before = resident()
    while results:
        del results[0]
        assert cpu.cached_memory() <= 40
    assert before - resident() > 7 * 2**24
    assert cpu.cached_memory() == 2 * 2**24 / 1e6
    last, one_before = norm(4096), norm(4096)  # the oldest were given back
    assert {last.data_ptr(), one_before.data_ptr()} == set(pointers[8:])


def test_a_result_above_the_limit_is_given_back() -> None:
    cpu.set_cache_limit(10)
    y = norm(4096)
    before = resident()
    del y
    assert before - resident() > 2**23
    assert cpu.cached_memory() == 0


def test_a_lower_limit_holds_at_once() -> None:
    results = [norm(4096) for _ in range(4)]
    results.clear()
    cpu.set_cache_limit(20.5)
    assert cpu.cache_limit() == 20.5
    assert cpu.cached_memory() == 2**24 / 1e6


def lazily_freed() -> int:
    """Bytes in memory that the system may take without asking."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) << 10 for n in re.findall(r"^LazyFree: +(\d+) kB", text, re.M))


def test_what_is_not_the_newest_is_the_systems_to_take() -> None:
    """All but 256 MiB, in blocks of 16 MiB here, until they are results again."""
    x = torch.randn(4096, COLUMNS)
    expected = norm(x=x)
    before = lazily_freed()
    results = [norm(x=x) for _ in range(20)]
    while results:
        del results[0]
    assert cpu.cached_memory() == 20 * 2**24 / 1e6
    assert 2**24 <= lazily_freed() - before <= 4 * 2**24
    results = [norm(x=x) for _ in range(20)]
    assert cpu.cached_memory() == 0
    assert lazily_freed() == before
    assert all(torch.equal(y, expected) for y in results)


def test_empty_cache() -> None:
    results = [norm(4096) for _ in range(4)]
    results.clear()
    before = resident()
    cpu.empty_cache()
    assert cpu.cached_memory() == 0
    assert before - resident() > 3 * 2**24


def test_without_a_cache() -> None:
    cpu.set_cache_limit(0)
    y = norm()
    y.untyped_storage().resize_(2**24)
    del y
    assert cpu.cached_memory() == 0


@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 10**13, True, "1", None])
def test_bad_limits(value: Any) -> None:
    text = f"[set_cache_limit] megabytes is {value!r}, must be from 0 to 1000000000000"
    with pytest.raises(ArgumentError, match=re.escape(text)):
        cpu.set_cache_limit(value)


# What measures memory sees results all the same.


def test_peak_mb() -> None:
    x = torch.randn(ROWS, COLUMNS)
    norm(x=x)
    limit = cpu.cache_limit()
    block = ROWS * COLUMNS * 4 / 1e6
    assert block <= peak_mb(lambda: norm(x=x), torch.device("cpu")) < 1.01 * block
    two = peak_mb(lambda: (norm(x=x), norm(x=x)), torch.device("cpu"))
    assert 2 * block <= two < 2.02 * block
    assert cpu.cache_limit() == limit


def test_peak_mb_restores_the_limit() -> None:
    cpu.set_cache_limit(123)

    def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        peak_mb(fails, torch.device("cpu"))
    assert cpu.cache_limit() == 123
