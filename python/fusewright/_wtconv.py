"""What wtconv1d and wtconv2d share: reference, checks and samples, for one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusewright._check import check_floating, check_integer, check_tensor, is_integer
from fusewright.errors import fail


def haar(x: Tensor, dims: int) -> Tensor:
    """Haar bands of the last `dims` dimensions, (N, C, bands, ...); odd sizes are zero-padded."""
    x = F.pad(x, [p for size in reversed(x.shape[-dims:]) for p in (0, size % 2)])
    even, odd = x[..., 0::2], x[..., 1::2]
    low, high = (even + odd) * 0.5**0.5, (even - odd) * 0.5**0.5
    if dims == 1:
        return torch.stack([low, high], 2)
    bands = []
    for part in (low, high):  # along the width; then the same along the height
        top, bottom = part[..., 0::2, :], part[..., 1::2, :]
        bands.append(((top + bottom) * 0.5**0.5, (top - bottom) * 0.5**0.5))
    return torch.stack([bands[0][0], bands[0][1], bands[1][0], bands[1][1]], 2)


def ihaar(bands: Tensor, size: Sequence[int], dims: int) -> Tensor:
    """The inverse of `haar`, cropped to `size`."""
    if dims == 1:
        low, high = bands.unbind(2)
        x = torch.stack([low + high, low - high], -1).flatten(-2) * 0.5**0.5
        return x[..., : size[0]]
    ll, lh, hl, hh = bands.unbind(2)
    low = torch.stack([ll + lh, ll - lh], -2).flatten(-3, -2) * 0.5**0.5
    high = torch.stack([hl + hh, hl - hh], -2).flatten(-3, -2) * 0.5**0.5
    x = torch.stack([low + high, low - high], -1).flatten(-2) * 0.5**0.5
    return x[..., : size[0], : size[1]]


def reference(
    dims: int,
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    wavelet_weights: Sequence[Tensor],
    wavelet_scales: Sequence[Tensor],
    transform: Callable[[Tensor, int], Tensor] = haar,
    inverse: Callable[[Tensor, Sequence[int], int], Tensor] = ihaar,
) -> Tensor:
    """The operator in plain PyTorch, accumulating in fp32 (fp64 for fp64)."""
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    channels = x.shape[1]
    pixels = (1,) * dims
    sizes, details, low = [], [], x.to(dtype)
    for _ in wavelet_weights:
        sizes.append(low.shape[2:])
        bands = transform(low, dims)
        details.append(bands)
        low = bands[:, :, 0]
    deeper: Tensor | None = None
    for size, bands, weight, scale in zip(
        reversed(sizes),
        reversed(details),
        reversed(wavelet_weights),
        reversed(wavelet_scales),
        strict=True,
    ):
        flat = _filter(bands.flatten(1, 2), weight.to(dtype))
        flat = flat * scale.to(dtype).reshape(1, -1, *pixels)
        bands = flat.unflatten(1, (channels, 2**dims))
        if deeper is not None:
            bands = torch.cat([bands[:, :, :1] + deeper.unsqueeze(2), bands[:, :, 1:]], 2)
        deeper = inverse(bands, size, dims)
    y = _filter(x.to(dtype), base_weight.to(dtype))
    if base_bias is not None:
        y = y + base_bias.to(dtype).reshape(1, -1, *pixels)
    y = y * base_scale.to(dtype).reshape(1, -1, *pixels)
    return (y if deeper is None else y + deeper).to(x.dtype)


def _filter(x: Tensor, weight: Tensor) -> Tensor:
    if x.numel() == 0:  # torch's convolutions refuse no groups and no pixels
        return x
    convolve = F.conv1d if weight.dim() == 3 else F.conv2d
    pads = []
    for size in reversed(weight.shape[2:]):  # 'same', also for even sizes
        pads += [(size - 1) // 2, size // 2]
    return convolve(F.pad(x, pads), weight, groups=x.shape[1])


def check_bands(op: str, x: Tensor, size: Sequence[int]) -> None:
    """Raise `ArgumentError` for bands that are none, or no transform of an image of that size."""
    dims = len(size)
    if x.dim() != dims + 2:
        places = "(N, 2C, L)" if dims == 1 else "(N, 4C, H, W)"
        fail(op, "coefficients.dim()", x.dim(), f"be {dims + 2}: {places}")
    check_floating(op, "coefficients", x)
    if x.shape[1] % 2**dims:
        fail(op, "coefficients.shape[1]", x.shape[1], f"be a multiple of {2**dims}")
    for half, full in zip(x.shape[2:], size, strict=True):
        if full < 0 or (full + 1) // 2 != half:
            sizes = f"{2 * half - 1} or {2 * half}" if half > 0 else "0"
            fail(op, "size", full, f"be {sizes} for {half} coefficients")


def image_size(op: str, coefficients: Any, size: Any, dims: int) -> Sequence[int]:
    """`size` if it is that many integers; twice the bands' where it is None."""
    check_tensor(op, "coefficients", coefficients)
    if size is None:  # of bands of a wrong rank the check tells
        return (
            [2 * half for half in coefficients.shape[2:]]
            if coefficients.dim() == dims + 2
            else [0] * dims
        )
    if dims == 1:
        check_integer(op, "size", size, 0)
        return [size]
    if not isinstance(size, (list, tuple)) or len(size) != dims or not all(map(is_integer, size)):
        fail(op, "size", repr(size), "be two integers")
    return size


def stacked(op: str, name: str, value: Any) -> Sequence[Any]:
    """The parameters of all levels; a tensor is no sequence of them, though it can be iterated."""
    if type(value) is list or type(value) is tuple:  # the others take longer to tell
        return value
    if isinstance(value, (Tensor, str)) or not isinstance(value, Iterable):
        fail(
            op,
            name,
            "a Tensor" if isinstance(value, Tensor) else repr(value),
            "be a list of Tensors",
        )
    return list(value)


def check(
    op: str,
    dims: int,
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    wavelet_weights: Sequence[Tensor],
    wavelet_scales: Sequence[Tensor],
) -> None:
    """Raise `ArgumentError` for shapes and dtypes that are wrong on every backend."""
    if x.dim() != dims + 2:
        fail(op, "x.dim()", x.dim(), f"be {dims + 2}")
    check_floating(op, "x", x)
    channels, size = x.shape[1], base_weight.shape[-1] if base_weight.dim() else 0
    kernel, bands = (size,) * dims, 2**dims * channels
    if base_weight.shape != (channels, 1, *kernel) or size < 1:
        must = f"be ({channels}, 1{', K' * dims}) with K >= 1"
        fail(op, "base_weight.shape", tuple(base_weight.shape), must)
    check_floating(op, "base_weight", base_weight)
    if base_bias is not None:
        if base_bias.shape != (channels,):
            fail(op, "base_bias.shape", tuple(base_bias.shape), f"be ({channels},)")
        check_floating(op, "base_bias", base_bias)
    _check_scale(op, dims, "base_scale", base_scale, channels)
    if len(wavelet_scales) != len(wavelet_weights):
        must = f"be {len(wavelet_weights)} as wavelet_weights"
        fail(op, "len(wavelet_scales)", len(wavelet_scales), must)
    shape, scales = (bands, 1, *kernel), _scale_shapes(dims, bands)
    for level, (weight, scale) in enumerate(zip(wavelet_weights, wavelet_scales, strict=True)):
        if weight.shape != shape:
            must = f"be {shape}"
            fail(op, f"wavelet_weights[{level}].shape", tuple(weight.shape), must)
        # the names of the arguments are made where something is wrong: levels are many
        if scale.shape not in scales or not (
            weight.dtype.is_floating_point and scale.dtype.is_floating_point
        ):
            check_floating(op, f"wavelet_weights[{level}]", weight)
            _check_scale(op, dims, f"wavelet_scales[{level}]", scale, bands)


def _scale_shapes(dims: int, channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1, channels, *(1,) * dims), (channels,)


def _check_scale(op: str, dims: int, name: str, scale: Tensor, channels: int) -> None:
    full, flat = shapes = _scale_shapes(dims, channels)
    if scale.shape not in shapes:
        fail(op, f"{name}.shape", tuple(scale.shape), f"be {full} or {flat}")
    check_floating(op, name, scale)


def sample(
    dims: int,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    weight_dtype: torch.dtype | None = None,
    kernel: int = 5,
    levels: int = 2,
    bias: bool = True,
    channels_last: bool = False,
) -> tuple[Any, ...]:
    """Arguments of the operator, with scales far from their initial values."""
    options: dict[str, Any] = {"dtype": weight_dtype or dtype, "device": device}
    channels, bands = shape[1], 2**dims * shape[1]
    ones, size = (1,) * dims, (kernel,) * dims
    x = torch.randn(shape, dtype=dtype, device=device)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return (
        x,
        torch.randn(channels, 1, *size, **options) / kernel**dims,
        torch.randn(channels, **options) if bias else None,
        torch.rand(1, channels, *ones, **options) + 0.5,
        [torch.randn(bands, 1, *size, **options) / kernel**dims for _ in range(levels)],
        [torch.randn(1, bands, *ones, **options) for _ in range(levels)],
    )
