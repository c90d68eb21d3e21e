from __future__ import annotations

from typing import Any

import pytest
import torch

import fusewright
from check import check_values
from fusewright import ArgumentError, UnsupportedError
from fusewright.ops.wtconv2d import WTCONV2D
from wtconv_cases import WTConvCases


class TestWTConv2d(WTConvCases):
    op = WTCONV2D
    small = (2, 3, 5, 6)
    shapes = [
        (2, 3, 14, 14),
        (1, 17, 7, 7),
        (1, 2, 37, 23),
        (2, 5, 1, 1),
        (1, 1, 1, 9),
        (1, 33, 28, 3),
        (2, 3, 19, 37),  # wider than a vector, which is another path
    ]


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_planes_larger_than_a_tile(
    backend: str, device: str, channels_last: bool, kernel: int
) -> None:
    """Kernels may cut planes, with margins as far as the filters of two levels reach."""
    options: dict[str, Any] = {"kernel": kernel, "levels": 3, "channels_last": channels_last}
    check_values(WTCONV2D, WTCONV2D.sample((1, 3, 75, 90), device=device, **options), backend)


@pytest.mark.parametrize("width", [63, 64, 65, 95, 96, 97, 98, 127, 130])
def test_what_lies_beside_rows(backend: str, device: str, width: int) -> None:
    """Kernels may read a row's neighbours in memory, here NaN, but must not count them."""
    levels, height = width % 4, (41, 24, 18)[width % 3]
    x, *rest = WTCONV2D.sample((2, 2, height, width), device=device, kernel=5, levels=levels)
    around = torch.full((2, 2, height + 2, width + 9), torch.nan, device=device)
    around[:, :, 1:-1, 4:-5] = x
    # two channels are what such kernels take; their scales have a sum each, which may cancel
    check_values(WTCONV2D, (around[:, :, 1:-1, 4:-5], *rest), backend, few=4)
    check_values(WTCONV2D, (x[:, :, :1].expand(x.shape), *rest), backend, few=4)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [(7, 7), (8, 5)])
def test_stride_takes_every_nth_pixel(
    backend: str, device: str, stride: int, size: tuple[int, int]
) -> None:
    args = WTCONV2D.sample((2, 3, *size), device=device)
    y = fusewright.wtconv2d(*args, stride=stride, backend=backend)
    whole = fusewright.wtconv2d(*args, backend=backend)
    assert torch.equal(y, whole[:, :, ::stride, ::stride])
    assert y.is_contiguous()


def test_stride_keeps_channels_last(backend: str, device: str) -> None:
    args = WTCONV2D.sample((2, 3, 7, 8), channels_last=True, device=device)
    y = fusewright.wtconv2d(*args, stride=2, backend=backend)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_other_float_types_have_no_kernel(backend: str, device: str) -> None:
    args = WTCONV2D.sample((2, 3, 5, 6), device=device)
    with pytest.raises(UnsupportedError, match="not torch.float8_e5m2"):
        fusewright.wtconv2d(args[0].to(torch.float8_e5m2), *args[1:], backend=backend)


def _call(**change: Any) -> Any:
    names = ("x", "base_weight", "base_bias", "base_scale", "wavelet_weights", "wavelet_scales")
    good = dict(zip(names, WTCONV2D.sample((2, 3, 5, 6)), strict=True))
    return fusewright.wtconv2d(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": torch.randn(3, 5, 6)}, r"\[wtconv2d\] x.dim\(\) is 3, must be 4"),
        ({"x": torch.ones(2, 3, 5, 6).int()}, "x.dtype is torch.int32"),
        ({"x": torch.randn(2, 4, 5, 6)}, r"base_weight.shape is \(3, 1, 5, 5\), must be \(4, 1"),
        ({"base_weight": torch.randn(3, 1, 5, 3)}, r"base_weight.shape is \(3, 1, 5, 3\)"),
        ({"base_weight": torch.randn(3, 1, 0, 0)}, r"base_weight.shape is \(3, 1, 0, 0\)"),
        ({"base_bias": torch.randn(4)}, r"base_bias.shape is \(4,\), must be \(3,\)"),
        ({"base_scale": torch.randn(1)}, r"base_scale.shape is \(1,\), must be \(1, 3, 1, 1\)"),
        ({"wavelet_scales": []}, r"len\(wavelet_scales\) is 0, must be 2"),
        (
            {"wavelet_weights": [torch.randn(12, 1, 5, 5), torch.randn(12, 1, 3, 3)]},
            r"weights\[1\]",
        ),
        ({"wavelet_scales": [torch.randn(12), torch.randn(3)]}, r"scales\[1\].shape is \(3,\)"),
        ({"wavelet_weights": torch.randn(2, 12, 1, 5, 5)[0]}, "wavelet_weights"),
        ({"base_bias": torch.ones(3).int()}, "base_bias.dtype is torch.int32"),
        ({"wavelet_scales": [torch.ones(12).int(), torch.ones(12)]}, "wavelet_scales.0..dtype is"),
        ({"stride": 0}, "stride is 0, must be an integer >= 1"),
        ({"stride": True}, "stride is True"),
    ],
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        _call(**change)
