from __future__ import annotations

import pytest
import torch

import fusewright
from fusewright import ArgumentError
from fusewright.ops.ihaar2d import IHAAR2D
from haar_cases import HaarCases


class TestIHaar2d(HaarCases):
    op = IHAAR2D
    small = (2, 3, 5, 6)
    shapes = [(2, 3, 14, 131), (1, 1, 1, 1), (3, 2, 64, 33), (1, 5, 2, 7), (2, 1, 1, 9)]


def test_inverts(backend: str, device: str) -> None:
    x = torch.randn((2, 3, 5, 13), device=device)
    bands = fusewright.haar2d(x, backend=backend)
    torch.testing.assert_close(fusewright.ihaar2d(bands, (5, 13), backend=backend), x)
    whole = fusewright.ihaar2d(bands, backend=backend)
    assert whole.shape[2:] == tuple(2 * s for s in bands.shape[2:])


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match=r"\[ihaar2d\] coefficients.dim\(\) is 2, must be 4"):
        fusewright.ihaar2d(torch.randn(2, 3))
    with pytest.raises(ArgumentError, match=r"shape\[1\] is 3, must be a multiple of 4"):
        fusewright.ihaar2d(torch.randn(2, 3, 5, 5))
    with pytest.raises(ArgumentError, match="size is 12, must be 9 or 10 for 5 coefficients"):
        fusewright.ihaar2d(torch.randn(2, 4, 5, 5), (12, 10))
