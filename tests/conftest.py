"""What every test runs under."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
import torch

from fusewright import backends, ops
from fusewright.backends import cpu
from toy import registered, toy  # noqa: F401  fixtures


@pytest.fixture(autouse=True)
def _poisoned_outputs() -> Iterator[None]:
    """`torch.empty` is filled with NaN, also for the kernels: what they forget to write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(autouse=True)
def _fresh_numbers(request: pytest.FixtureRequest) -> None:
    """Every test draws other numbers than the last run; the seed is shown where it fails."""
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    request.node.user_properties.append(("seed", seed))


@pytest.fixture
def empty_result_cache() -> Iterator[None]:
    """The test starts with an empty cache of results and leaves the limit that it found."""
    limit = cpu.cache_limit()
    cpu.empty_cache()
    yield
    cpu.set_cache_limit(limit)
    cpu.empty_cache()


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is not None:
        seeds = [str(v) for k, v in item.user_properties if k == "seed"]
        item.add_report_section(call.when, "seed", f"torch.manual_seed({', '.join(seeds)})")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test that asks the Metal device for float64, which it has not, is skipped."""
    try:
        return (yield)
    except TypeError as error:
        if pyfuncitem.funcargs.get("device") == "mps" and "doesn't support float64" in str(error):
            pytest.skip("Metal has no float64")
        raise


def _compiled_backends() -> list[str]:
    return [b.name for b in backends.installed().values() if b.error is None]


@pytest.fixture(params=_compiled_backends())
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend with kernels that this machine can run."""
    name, op = str(request.param), request.path.stem.removeprefix("test_")
    if op in ops.names() and name not in ops.load_all()[op].supports:
        pytest.skip(f"{name} has no kernels for {op}")
    return name


@pytest.fixture
def device(backend: str) -> str:
    """The device that the backend serves."""
    return backends.installed()[backend].devices[0]
