from __future__ import annotations

import pytest
import torch

import fusewright
from fusewright import ArgumentError
from fusewright.ops.haar2d import HAAR2D
from haar_cases import HaarCases


class TestHaar2d(HaarCases):
    op = HAAR2D
    small = (2, 3, 5, 6)
    shapes = [(2, 3, 14, 131), (1, 1, 1, 1), (3, 2, 64, 33), (1, 5, 2, 7), (2, 1, 1, 9)]


def test_bands() -> None:
    y = fusewright.haar2d(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))
    expected = torch.tensor([15.0, -9.0, -5.0, 3.0]).view(1, 4, 1, 1) / 2
    torch.testing.assert_close(y, expected)


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match=r"\[haar2d\] x.dim\(\) is 2, must be 4"):
        fusewright.haar2d(torch.randn(2, 3))
    with pytest.raises(ArgumentError, match="x.dtype is torch.int64"):
        fusewright.haar2d(torch.ones((2, 3, 5, 6)).long())
    with pytest.raises(ArgumentError, match="x is None"):
        fusewright.haar2d(None)
