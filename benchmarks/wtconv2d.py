"""wtconv2d against the published formulation, strided convolutions with wavelet filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

import fusewright
from fusewright import _wavelets
from fusewright.bench import Case, Peer
from fusewright.ops.wtconv2d import WTCONV2D

KERNEL = 5
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((8, 96, 56, 56), 5),
    ((8, 192, 28, 28), 4),
    ((8, 384, 14, 14), 3),
    ((8, 768, 7, 7), 2),
    ((1, 64, 224, 224), 2),
]
GPU_SHAPES: list[tuple[tuple[int, ...], int]] = [
    *(((64, *shape[1:]), levels) for shape, levels in SHAPES[:4]),
    ((16, 64, 224, 224), 2),
]


def make(
    shape: tuple[int, ...], levels: int, dtype: torch.dtype
) -> Callable[[torch.device], tuple[Tensor, ...]]:
    def inputs(device: torch.device) -> tuple[Tensor, ...]:
        x, weight, bias, scale, weights, scales = WTCONV2D.sample(
            shape, dtype=dtype, device=device, kernel=KERNEL, levels=levels
        )
        tensors = (x, weight, bias, scale, *weights, *scales)
        return tuple(t.requires_grad_() for t in tensors)

    return inputs


def ours(levels: int, *tensors: Tensor) -> Tensor:
    x, weight, bias, scale, *rest = tensors
    return fusewright.wtconv2d(x, weight, bias, scale, rest[:levels], rest[levels:])


def published(filters: tuple[Tensor, Tensor], levels: int, *tensors: Tensor) -> Tensor:
    x, weight, bias, scale, *rest = tensors
    channels = x.shape[1]
    analysis, synthesis = (f.to(x) for f in filters)
    low, shapes, lows, highs = x, [], [], []
    for level in range(levels):
        shapes.append(low.shape)
        even = F.pad(low, [p for size in reversed(low.shape[2:]) for p in (0, size % 2)])
        bands = F.conv2d(even, analysis, stride=2, groups=channels)
        low = bands[:, ::4]
        y = F.conv2d(bands, rest[level], padding="same", groups=bands.shape[1])
        y = (y * rest[levels + level]).unflatten(1, (channels, 4))
        lows.append(y[:, :, :1])
        highs.append(y[:, :, 1:])
    image: Tensor | None = None
    for size, y_low, y_high in zip(reversed(shapes), reversed(lows), reversed(highs), strict=True):
        deeper = y_low if image is None else y_low + image.unsqueeze(2)
        bands = torch.cat([deeper, y_high], 2).flatten(1, 2)
        image = F.conv_transpose2d(bands, synthesis, stride=2, groups=channels)
        image = image[..., : size[2], : size[3]]
    base = F.conv2d(x, weight, bias, padding="same", groups=channels) * scale
    return base if image is None else base + image


def fast_wtconv_layer(levels: int, tensors: tuple[Tensor, ...]) -> SimpleNamespace:
    """What their modules' forward reads of `self`, with these tensors for parameters."""
    weight, bias, scale, *rest = tensors
    return SimpleNamespace(
        wt_levels=levels,
        kernel_size=KERNEL,
        base_weight=weight,
        base_bias=bias,
        base_scale=scale,
        wt_weights=rest[:levels],
        wt_scales=rest[levels:],
        do_stride=None,
    )


def fast_wtconv_cuda(levels: int, x: Tensor, *tensors: Tensor) -> Tensor:
    from fast_wtconv import wtconv_cuda

    layer = fast_wtconv_layer(levels, tensors)
    layer._haar = wtconv_cuda._get_haar_module()
    y: Tensor = wtconv_cuda.WTConv2d.forward(layer, x)
    return y


def fast_wtconv_triton(levels: int, x: Tensor, *tensors: Tensor) -> Tensor:
    from fast_wtconv import wtconv_triton

    y: Tensor = wtconv_triton.WTConv2d.forward(fast_wtconv_layer(levels, tensors), x)
    return y


def peers(levels: int) -> dict[str, Peer]:
    """The two versions of the authors' repository; the Triton one is wrong at odd sizes."""
    return {
        "fast_wtconv cuda": Peer(partial(fast_wtconv_cuda, levels)),
        "fast_wtconv triton": Peer(partial(fast_wtconv_triton, levels), wrong=True),
    }


def cases(device: torch.device) -> Iterator[Case]:
    """The stages of WTConvNeXt, and one large image."""
    gpu = device.type != "cpu"
    for dtype in (torch.float32, torch.bfloat16, *([torch.float16] if gpu else [])):
        for shape, levels in GPU_SHAPES if gpu else SHAPES:
            pixels = 1
            for size in shape:
                pixels *= size
            # two operations a tap, for the base and for the bands, of which there are as many as
            # pixels at the first level, then a quarter (half) of that, and so on
            share = sum(4**-level for level in range(levels))
            flops = round(2 * KERNEL**2 * pixels * (1 + share))
            filters = _wavelets.filter_banks("db1", shape[1], 2)
            yield Case(
                op="wtconv2d",
                shape="x".join(map(str, shape)) + f" L{levels}",
                dtype=dtype,
                make=make(shape, levels, dtype),
                ours=partial(ours, levels),
                eager=partial(published, filters, levels),
                bytes=2 * pixels * dtype.itemsize,
                flops=flops,
                bytes_backward=5 * pixels * dtype.itemsize,
                flops_backward=3 * flops,
                peers=peers(levels) if gpu else {},
                # in fp32 it takes ten times as long as the fused versions, and long to compile
                compile={} if dtype == torch.float32 or not gpu else None,
            )
