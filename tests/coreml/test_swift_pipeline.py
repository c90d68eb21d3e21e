"""The Swift pipeline on emulated kernels and the exported model is WTConv2d."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fusewright

pytest.importorskip("coremltools", reason="coremltools has no package for this platform")

import export_wtconv_coreml as tool
from coreml import headers
from coreml.program import Program
from coreml.replay import HaarKernels, Pipeline

# even at every level; odd, and odd below an even one; smaller than its levels
SIZES = [(16, 32), (14, 13), (1, 6)]


@pytest.mark.parametrize("levels", [0, 1, 2, 3, 4])
def test_is_wtconv2d(tmp_path: Path, haar: HaarKernels, levels: int) -> None:
    for height, width in SIZES:
        layer = tool.make_layer(3, levels, 5, bias=True, seed=levels, checkpoint=None, prefix="")
        package = tmp_path / f"{height}x{width}.mlpackage"
        tool.export(layer, height, width, package)
        x = torch.randn(1, 3, height, width)
        y = Pipeline(Program(package), haar)(x)
        with fusewright.use_backend("reference"), torch.no_grad():
            torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=1e-5)


def test_accumulate_on_a_grid_that_is_too_small(haar: HaarKernels) -> None:
    """As where the planes are more than a grid may have rows."""
    planes, size, stride = 5, 7, 11
    into, addend = torch.randn(planes, stride), torch.randn(planes, size)
    expected = into.clone()
    expected[:, :size] += addend
    args = bytes(headers.AccumulateArgs(planes, size, stride))
    haar.launch("accumulate_float", [1, 1, 1], [3, 2, 1], {0: into, 1: addend}, 2, args)
    torch.testing.assert_close(into, expected, atol=0, rtol=0)
