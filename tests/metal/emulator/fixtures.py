"""The emulated Metal device, compiled once a session and cached by content between sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from emulator.build import KERNELS, MISSING, Builder, available

NAMES = sorted(p.stem for p in KERNELS.glob("*.metal"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """References this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def builder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if not available():
        pytest.skip(MISSING)
    cache = getattr(request.config, "cache", None)
    folder = tmp_path_factory.mktemp("metal") if cache is None else cache.mkdir("metal-emulator")
    return Builder(Path(folder))


@pytest.fixture(scope="session")
def metal(builder: Builder) -> Any:
    """The emulated device with all kernels."""
    from emulator.device import Device

    emulated = Device(builder)
    emulated.load(builder.all_kernels(NAMES))
    return emulated


@pytest.fixture(scope="session")
def emulated(metal: Any) -> Any:
    """Every operator on it, by name."""
    from emulator.backend import emulated_ops

    return emulated_ops(metal)


@pytest.fixture(params=["in_order", "reversed", "random"])
def schedule(request: pytest.FixtureRequest, metal: Any) -> Iterator[str]:
    """The order in which threads and threadgroups run."""
    metal.schedule = request.param
    yield request.param
    metal.schedule = "in_order"
