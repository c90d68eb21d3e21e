"""WTConvNeXt: ConvNeXt whose depthwise convolutions are wavelet convolutions.

Source: S. Finder et al., "Wavelet Convolutions for Large Receptive Fields", ECCV 2024. The names
of the parameters are those of its published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusewright import nn as fused_nn
from fusewright._check import check_integer, check_number, check_tensor
from fusewright.errors import fail
from fusewright.models import plain

_EPS = 1e-6
_NAME = "WTConvNeXt"
_STRIDE = 32  # of the stem and the three downsamplings


@dataclass(frozen=True)
class Variant:
    """The sizes of one model, a number for every stage."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    wt_levels: tuple[int, int, int, int] = (5, 4, 3, 2)


VARIANTS = {
    # for CPUs and 64 x 64 images, whose stages are 16, 8, 4 and 2 wide
    "pico": Variant((2, 2, 4, 2), (32, 64, 128, 256), (4, 3, 2, 1)),
    "tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Variant((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Variant((3, 3, 27, 3), (128, 256, 512, 1024)),
}


@dataclass(frozen=True)
class Layers:
    """The modules that a model is built of: the fused ones, or their plain twins."""

    wtconv: type[nn.Module]
    layer_norm: type[nn.Module]
    linear_gelu: type[nn.Module]


FUSED = Layers(fused_nn.WTConv2d, fused_nn.LayerNorm, fused_nn.LinearAct)
PLAIN = Layers(plain.PlainWTConv2d, nn.LayerNorm, plain.PlainLinearAct)


def _norm2d(layers: Layers, channels: int) -> nn.Module:
    """Layer norm over the channels of (N, C, H, W)."""

    class Norm2d(layers.layer_norm):  # type: ignore[name-defined]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return Norm2d(channels, eps=_EPS)


class DropPath(nn.Module):
    """Stochastic depth: drops the whole branch of a sample, and scales the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x, or 0 for some samples while training."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep)
        return x * mask / keep


class Mlp(nn.Module):
    """Two linear layers, GELU between them."""

    def __init__(self, layers: Layers, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = layers.linear_gelu(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) to the same."""
        return self.fc2(self.fc1(x))


class Block(nn.Module):
    """Wavelet convolution, norm, MLP and layer scale, beside a shortcut."""

    def __init__(self, layers: Layers, width: int, wt_levels: int, drop_path: float) -> None:
        super().__init__()
        self.conv_dw = layers.wtconv(width, width, kernel_size=5, wt_levels=wt_levels)
        self.norm = layers.layer_norm(width, eps=_EPS)
        self.mlp = Mlp(layers, width, 4 * width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) to the same."""
        y = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        y = (self.mlp(y) * self.gamma).permute(0, 3, 1, 2)
        return self.drop_path(y) + x


class Stage(nn.Module):
    """Downsampling by 2, except in the first stage, then blocks."""

    def __init__(
        self,
        layers: Layers,
        width_in: int,
        width: int,
        depth: int,
        wt_levels: int,
        drop_paths: Sequence[float],
    ) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if width_in != width:
            self.downsample = nn.Sequential(
                _norm2d(layers, width_in), nn.Conv2d(width_in, width, 2, stride=2)
            )
        blocks = [Block(layers, width, wt_levels, drop_paths[i]) for i in range(depth)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) to half the size and the stage's width."""
        return self.blocks(self.downsample(x))


class Head(nn.Module):
    """Global average, norm, classifier."""

    def __init__(self, layers: Layers, width: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = _norm2d(layers, width)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) to logits (N, classes)."""
        return self.fc(self.drop(self.norm(x.mean((2, 3), keepdim=True)).flatten(1)))


class WTConvNeXt(nn.Module):
    """The model; build it with `wtconvnext`."""

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layers: Layers = FUSED,
    ) -> None:
        super().__init__()
        check_integer(_NAME, "num_classes", num_classes, 1)
        check_integer(_NAME, "in_chans", in_chans, 1)
        check_number(_NAME, "drop_rate", drop_rate)
        if not 0 <= drop_rate <= 1:
            fail(_NAME, "drop_rate", drop_rate, "be from 0 to 1")
        check_number(_NAME, "drop_path_rate", drop_path_rate)
        if not 0 <= drop_path_rate < 1:
            fail(_NAME, "drop_path_rate", drop_path_rate, "be >= 0 and < 1")
        widths = variant.widths
        self.in_chans = in_chans
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, widths[0], 4, stride=4), _norm2d(layers, widths[0])
        )
        total = sum(variant.depths)
        rates = [drop_path_rate * i / max(total - 1, 1) for i in range(total)]
        stages = []
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            depth, levels = variant.depths[i], variant.wt_levels[i]
            stages.append(Stage(layers, before, width, depth, levels, rates[:depth]))
            rates = rates[depth:]
        self.stages = nn.Sequential(*stages)
        self.head = Head(layers, widths[-1], num_classes, drop_rate)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W), H and W >= 32, to logits (N, num_classes)."""
        _check_images(x, self.in_chans)
        return self.head(self.stages(self.stem(x)))


def _check_images(x: Tensor, channels: int) -> None:
    check_tensor(_NAME, "x", x)
    if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < _STRIDE:
        must = f"be (N, {channels}, H, W) with H and W >= {_STRIDE}"
        fail(_NAME, "x.shape", tuple(x.shape), must)


def wtconvnext(variant: str = "tiny", *, fused: bool = True, **options: Any) -> WTConvNeXt:
    """A WTConvNeXt.

    Args:
        variant: 'tiny', 'small' or 'base' as published, or 'pico' for CPUs and small images.
        fused: of the modules of `fusewright.nn`; False builds plain PyTorch twins with the same
            state_dict.
        options: num_classes, in_chans, drop_rate and drop_path_rate of `WTConvNeXt`.

    Returns:
        The model, initialised as published.

    Raises:
        ArgumentError: there is no such variant, or an option is out of range.
    """
    if variant not in tuple(VARIANTS):
        fail("wtconvnext", "variant", repr(variant), f"be one of {', '.join(VARIANTS)}")
    return WTConvNeXt(VARIANTS[variant], layers=FUSED if fused else PLAIN, **options)
