"""The emulated kernels that the example runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coreml import headers
from coreml.replay import HaarKernels
from emulator.build import COMPILER, MISSING, Builder, available
from emulator.device import Device


@pytest.fixture(scope="session")
def haar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HaarKernels:
    """HaarKernels.swift on the emulated kernels of the wheel and of the example."""
    if not available():
        pytest.skip(MISSING)
    scratch = tmp_path_factory.mktemp("coreml")
    cache = getattr(request.config, "cache", None)  # the one of tests/metal
    builder = Builder(scratch if cache is None else Path(cache.mkdir("metal-emulator")))
    device = Device(builder)
    device.load(builder.all_kernels(["haar2d", "ihaar2d"]))
    device.load([builder.kernels("accumulate", folder=headers.ACCUMULATE.parent)])

    def launch(
        kernel: str,
        groups: list[int],
        threads: list[int],
        buffers: dict[int, torch.Tensor],
        index: int,
        args: bytes,
    ) -> None:
        bound = [(i, t.data_ptr(), t.numel() * t.element_size()) for i, t in buffers.items()]
        sizes, seed = (list(groups), list(threads), 0), torch.initial_seed() % 2**63
        device.module.launch(kernel, sizes, bound, index, args, "random", seed)

    return HaarKernels(launch, headers.plan(COMPILER, scratch))
