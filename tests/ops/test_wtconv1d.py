from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fusewright
from fusewright import ArgumentError
from fusewright.ops.wtconv1d import WTCONV1D
from wtconv_cases import WTConvCases


class TestWTConv1d(WTConvCases):
    op = WTCONV1D
    small = (2, 3, 7)
    shapes = [(2, 3, 14), (1, 17, 7), (1, 2, 131), (2, 5, 1), (3, 33, 28)]


@pytest.mark.parametrize("stride", [2, 3])
def test_stride_averages(backend: str, device: str, stride: int) -> None:
    args = WTCONV1D.sample((2, 3, 11), device=device)
    y = fusewright.wtconv1d(*args, stride=stride, backend=backend)
    whole = fusewright.wtconv1d(*args, backend=backend)
    assert torch.equal(y, F.avg_pool1d(whole, stride, stride))


def test_bad_input() -> None:
    args = WTCONV1D.sample((2, 3, 11))
    with pytest.raises(ArgumentError, match=r"\[wtconv1d\] x.dim\(\) is 4, must be 3"):
        fusewright.wtconv1d(torch.randn(2, 3, 4, 5), *args[1:])
    with pytest.raises(ArgumentError, match="base_weight.shape"):
        fusewright.wtconv1d(args[0], args[1][:2], *args[2:])
