from __future__ import annotations

import pytest
import torch

import fusewright
from fusewright import ArgumentError
from fusewright.ops.ihaar1d import IHAAR1D
from haar_cases import HaarCases


class TestIHaar1d(HaarCases):
    op = IHAAR1D
    small = (2, 3, 7)
    shapes = [(2, 3, 131), (1, 1, 1), (3, 2, 64), (1, 5, 2)]


def test_inverts(backend: str, device: str) -> None:
    x = torch.randn((2, 3, 13), device=device)
    bands = fusewright.haar1d(x, backend=backend)
    torch.testing.assert_close(fusewright.ihaar1d(bands, 13, backend=backend), x)
    whole = fusewright.ihaar1d(bands, backend=backend)
    assert whole.shape[2:] == tuple(2 * s for s in bands.shape[2:])


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match=r"\[ihaar1d\] coefficients.dim\(\) is 2, must be 3"):
        fusewright.ihaar1d(torch.randn(2, 3))
    with pytest.raises(ArgumentError, match=r"shape\[1\] is 3, must be a multiple of 2"):
        fusewright.ihaar1d(torch.randn(2, 3, 5))
    with pytest.raises(ArgumentError, match="size is 12, must be 9 or 10 for 5 coefficients"):
        fusewright.ihaar1d(torch.randn(2, 4, 5), 12)
