"""The emulated kernels that the example runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from coreml import headers
from coreml.replay import HaarKernels, Launch
from emulator.build import COMPILER, MISSING, Builder, available


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Launches of the emulated kernels of the wheel and of the example."""
    if not available():
        pytest.skip(MISSING)
    builder = Builder(tmp_path_factory.mktemp("kernels"))
    module = _load(builder.module())
    for library in (
        *builder.all_kernels(["haar2d", "ihaar2d"]),
        builder.kernels("accumulate", folder=headers.ACCUMULATE.parent),
    ):
        module.load_library(str(library))

    def run(
        kernel: str,
        groups: list[int],
        threads: list[int],
        buffers: dict[int, torch.Tensor],
        index: int,
        args: bytes,
    ) -> None:
        bound = [(i, t.data_ptr(), t.numel() * t.element_size()) for i, t in buffers.items()]
        sizes = (list(groups), list(threads), 0)
        module.launch(kernel, sizes, bound, index, args, "random", torch.initial_seed() % 2**63)

    return run


@pytest.fixture(scope="session")
def haar(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> HaarKernels:
    """HaarKernels.swift on the emulated kernels."""
    return HaarKernels(launch, headers.plan(COMPILER, tmp_path_factory.mktemp("plan")))


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("fusewright_metal_emulator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
