"""The cache of results and other processes: forks, the environment, the end of memory."""

from __future__ import annotations

import multiprocessing
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from cached_results import COLUMNS, MARKS, ROWS, norm
from fresh import python
from fusewright import BackendLoadError
from fusewright.backends import cpu

pytestmark = MARKS


class Norms(torch.utils.data.Dataset[Tensor]):
    """Results that the workers make."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return norm(x=torch.full((ROWS, COLUMNS), float(index + 1)))


def test_workers_that_fork() -> None:
    y = norm(x=torch.randn(ROWS, COLUMNS))
    spare, expected = norm(), y.clone()
    del spare
    loader = torch.utils.data.DataLoader(
        Norms(), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for batch in loader:
        torch.testing.assert_close(batch, torch.ones(ROWS, COLUMNS))
    assert torch.equal(y, expected)


def test_nothing_is_kept_across_a_fork() -> None:
    """A fork leaves pages that are slower than new ones, the child's and the parent's."""
    held, freed = norm(), norm()
    del freed
    assert cpu.cached_memory() > 0

    def child(told: Any) -> None:
        nonlocal held
        torch.set_num_threads(1)
        before = cpu.cached_memory()
        del held
        after_free = cpu.cached_memory()
        norm()
        told.send((before, after_free, cpu.cached_memory()))

    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(tell,))
    process.start()
    assert told.poll(120)
    block = ROWS * COLUMNS * 4 / 1e6
    assert told.recv() == (0, 0, block)
    process.join(60)
    assert process.exitcode == 0
    assert cpu.cached_memory() == 0
    del held
    assert cpu.cached_memory() == 0
    norm()
    assert cpu.cached_memory() == block


FORKS = """
import os, threading, torch
from fusewright.backends import cpu
import fusewright as fw
torch.set_num_threads(1)
# A child can't finish what another thread had begun to import or to set up.
fw.rms_norm(torch.randn(2048, 1024), backend="cpu")
stop = False
def work():
    x = torch.randn(2048, 1024)
    while not stop:
        fw.rms_norm(x, backend="cpu")
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
failed = 0
for i in range(12):
    child = os.fork()
    if child == 0:
        x = torch.full((2048, 1024), 3.0)
        ok = all(bool((fw.rms_norm(x, backend="cpu") - 1).abs().max() < 1e-3) for _ in range(3))
        os._exit(0 if ok else 1)
    failed += os.waitpid(child, 0)[1] != 0
stop = True
for thread in threads: thread.join()
print("failed", failed)
"""


def test_forks_while_threads_work() -> None:
    assert python(FORKS) == "failed 0"


@pytest.mark.parametrize(("value", "limit"), [("0", 0.0), ("64", 64.0), ("", 1000.0)])
def test_environment_variable(value: str, limit: float) -> None:
    code = """
import torch, fusewright as fw
from fusewright.backends import cpu
y = fw.rms_norm(torch.randn(2048, 1024), backend="cpu")
kept = cpu.cache_limit() > 0
try:
    y.untyped_storage().resize_(2**24)
    print(cpu.cache_limit(), "torch's" if not kept else "torch's, though kept")
except RuntimeError:
    del y
    print(cpu.cache_limit(), "kept" if cpu.cached_memory() > 0 else "lost")
"""
    kind = "kept" if limit else "torch's"
    assert python(code, FUSEWRIGHT_CPU_CACHE_MB=value) == f"{limit} {kind}"


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "²", "9" * 20])
def test_bad_environment_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWRIGHT_CPU_CACHE_MB", value)
    text = f"FUSEWRIGHT_CPU_CACHE_MB is {value!r}, must be a whole number of MB"
    with pytest.raises(BackendLoadError, match=re.escape(text)):
        cpu.BACKEND.load()


MEMORY = """
import resource, torch, fusewright as fw
from fusewright.backends import cpu
torch.set_num_threads(1)
x = torch.ones(25000, 1024)  # 100 MB
kept = [fw.rms_norm(x[: 5000 * n], backend="cpu") for n in (1, 2, 3)]
kept.clear()
before = cpu.cached_memory()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, used + 2**25))
y = fw.rms_norm(x, backend="cpu")  # there is room once the cache is empty
print(before > 100, cpu.cached_memory(), bool((y[::999] - 1).abs().max() < 1e-3))
try:
    z = fw.rms_norm(x, backend="cpu")
except RuntimeError as error:
    print("new_empty" in str(error))  # torch's allocator was asked
"""


def test_out_of_memory() -> None:
    assert python(MEMORY) == "True 0.0 True\nTrue"


def test_a_process_that_ends_with_results_in_use() -> None:
    code = """
import torch, fusewright as fw
y = fw.rms_norm(torch.randn(2048, 1024), backend="cpu")
class Holder:
    pass
holder = Holder(); holder.me, holder.y = holder, y
freed = fw.rms_norm(torch.randn(2048, 1024), backend="cpu"); del freed
print("ends")
"""
    assert python(code) == "ends"
