"""Plain PyTorch twins of the fused modules, with the same parameters.

They are what the fused ones are measured against, and a way to see that a difference comes from a
kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusewright.nn import WTConv2d


class PlainWTConv2d(WTConv2d):
    """Wavelet convolution as it was published: strided convolutions with wavelet filters."""

    def forward(self, x: Tensor) -> Tensor:
        """As `WTConv2d`'s."""
        channels, pad = x.shape[1], self.wt_filter.shape[-1] // 2 - 1
        low, shapes, lows, highs = x, [], [], []
        levels: Any = zip(self.wavelet_convs, self.wavelet_scale, strict=True)
        for convolution, scale in levels:
            shapes.append(low.shape)
            even = F.pad(low, (0, low.shape[3] % 2, 0, low.shape[2] % 2))
            bands = F.conv2d(even, self.wt_filter, stride=2, groups=channels, padding=pad)
            low = bands[:, ::4]
            same = _same(bands, self.kernel_size)
            y = F.conv2d(same, convolution.weight, groups=bands.shape[1]) * scale.weight
            y = y.unflatten(1, (channels, 4))
            lows.append(y[:, :, :1])
            highs.append(y[:, :, 1:])
        image: Tensor | float = 0.0
        for shape, y_low, y_high in zip(
            reversed(shapes), reversed(lows), reversed(highs), strict=True
        ):
            deeper = image.unsqueeze(2) if isinstance(image, Tensor) else image
            bands = torch.cat([y_low + deeper, y_high], 2).flatten(1, 2)
            image = F.conv_transpose2d(
                bands, self.iwt_filter, stride=2, groups=channels, padding=pad
            )[:, :, : shape[2], : shape[3]]
        base = F.conv2d(
            _same(x, self.kernel_size), self.base_conv.weight, self.base_conv.bias, groups=channels
        )
        y = base * self.base_scale.weight + image
        return y if self.stride == 1 else y[:, :, :: self.stride, :: self.stride].contiguous()


class PlainLinearAct(nn.Linear):
    """Linear layer, then GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        return F.gelu(super().forward(x))


def _same(x: Tensor, kernel: int) -> Tensor:
    before, after = (kernel - 1) // 2, kernel // 2
    return F.pad(x, (before, after, before, after))
