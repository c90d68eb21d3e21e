"""Wavelet convolution in one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusewright import _wtconv
from fusewright._check import check_integer
from fusewright._op import Op, supported_dtypes


def _sample(shape: tuple[int, ...] = (2, 3, 17), **options: Any) -> tuple[Any, ...]:
    return _wtconv.sample(1, shape, **options)


def _fake(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


WTCONV1D = Op(
    name="wtconv1d",
    forward="(Tensor x, Tensor base_weight, Tensor? base_bias, Tensor base_scale, "
    "Tensor[] wavelet_weights, Tensor[] wavelet_scales) -> (Tensor y)",
    backward="(Tensor grad_y, Tensor x, Tensor base_weight, Tensor? base_bias, Tensor base_scale, "
    "Tensor[] wavelet_weights, Tensor[] wavelet_scales, int needs) -> (Tensor grad_x, "
    "Tensor grad_base_weight, Tensor grad_base_bias, Tensor grad_base_scale, "
    "Tensor[] grad_wavelet_weights, Tensor[] grad_wavelet_scales)",
    reference=partial(_wtconv.reference, 1),
    fake=_fake,
    check=partial(_wtconv.check, "wtconv1d", 1),
    supports={
        "cpu": supported_dtypes,
        "cuda": supported_dtypes,
        "metal": supported_dtypes,
        "triton": supported_dtypes,
    },
    sample=_sample,
)


def wtconv1d(
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    wavelet_weights: Sequence[Tensor],
    wavelet_scales: Sequence[Tensor],
    *,
    stride: int = 1,
    wt_type: str = "db1",
    backend: str | None = None,
) -> Tensor:
    """Wavelet convolution: depthwise convolutions of x and of its wavelet bands, summed.

    Level i transforms the low band of level i-1 (x at first) into 2 bands and convolves each:
    `y_i = scale_i · conv(bands_i, weight_i)`, 'same', no bias. From the deepest level on, the
    inverse transform of y_i is added to the low band of y_(i-1). The result is
    `base_scale · (conv(x, base_weight) + base_bias) + inverse transform of y_1`.
    Odd sizes are padded with a zero on the right and cropped on the way back.

    Args:
        x: (N, C, L); fp64, fp32, bf16 or fp16; any strides.
        base_weight: (C, 1, K), any K >= 1; of a floating-point type of its own, as all parameters.
        base_bias: (C,) or None.
        base_scale: (1, C, 1) or (C,).
        wavelet_weights: for every level (2C, 1, K); channel 2c+s filters band s of channel c,
            low, high. Any number of levels, also none.
        wavelet_scales: for every level (1, 2C, 1) or (2C,).
        stride: the mean of every `stride` elements, floor(L / stride) of them, as in the original.
        wt_type: 'db1' or 'haar', which are fused, or any other discrete wavelet that PyWavelets
            names, which runs as plain PyTorch.
        backend: the backend to run on; None picks the default.

    Returns:
        y, of x's dtype, of x's shape where stride is 1.

    Raises:
        ArgumentError: a shape, dtype, stride or wavelet is none of the above.
        UnsupportedError: a compiled backend is asked for another wavelet than Haar.

    Source: S. Finder et al., "Wavelet Convolutions for Large Receptive Fields", ECCV 2024, and its
    repository BGU-CS-VIL/WTConv, whose semantics these are.
    """
    check_integer("wtconv1d", "stride", stride, 1)
    args = (
        x,
        base_weight,
        base_bias,
        base_scale,
        _wtconv.stacked("wtconv1d", "wavelet_weights", wavelet_weights),
        _wtconv.stacked("wtconv1d", "wavelet_scales", wavelet_scales),
    )
    if wt_type in ("db1", "haar"):
        y: Tensor = WTCONV1D(*args, backend=backend)
    else:
        from fusewright import _wavelets

        y = _wavelets.wtconv(WTCONV1D, wt_type, args, backend)
    if stride > 1:
        y = F.avg_pool1d(y, stride, stride)
    return y
