from __future__ import annotations

import pytest
import torch

import fusewright
from fusewright import ArgumentError
from fusewright.ops.haar1d import HAAR1D
from haar_cases import HaarCases


class TestHaar1d(HaarCases):
    op = HAAR1D
    small = (2, 3, 7)
    shapes = [(2, 3, 131), (1, 1, 1), (3, 2, 64), (1, 5, 2)]


def test_bands() -> None:
    y = fusewright.haar1d(torch.tensor([[[3.0, 1.0, 2.0]]]))
    expected = torch.tensor([[[4.0, 2.0], [2.0, 2.0]]]) / 2**0.5
    torch.testing.assert_close(y, expected)


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match=r"\[haar1d\] x.dim\(\) is 2, must be 3"):
        fusewright.haar1d(torch.randn(2, 3))
    with pytest.raises(ArgumentError, match="x.dtype is torch.int64"):
        fusewright.haar1d(torch.ones((2, 3, 7)).long())
    with pytest.raises(ArgumentError, match="x is None"):
        fusewright.haar1d(None)
