"""wtconv1d and wtconv2d on the emulated device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emulator import haar
from emulator.arguments import DTYPES, NONE, STRUCTS, code, make
from emulator.device import Device, Sizes

_SLOTS = 8  # FW_WT_LEVELS


class Step(NamedTuple):
    """A WtStep of plan.h."""

    args: Any
    sizes: Sizes
    first: int
    partials: int


def _steps(
    device: Device, dims: int, x: Tensor, kernel: int, levels: int, flipped: bool, correlate: bool
) -> list[Step]:
    height = x.shape[2] if dims == 2 else 1
    shape = (dims, x.shape[0], x.shape[1], height, x.shape[-1])
    steps = device.module.wt_steps(*shape, kernel, levels, flipped, correlate)
    return [Step(STRUCTS["FwWtArgs"].from_buffer_copy(data), *rest) for data, *rest in steps]


def _bind(args: Any, name: str, t: Tensor) -> None:
    strides = (t.stride(0), t.stride(1), t.stride(2) if t.dim() == 4 else 0, t.stride(-1))
    for part, stride in zip("nchw", strides, strict=True):
        setattr(args, f"{name}_{part}", stride)


def _lows(device: Device, dims: int, x: Tensor, count: int) -> list[Tensor]:
    """x, and the low bands of as many levels."""
    images = [x]
    for _ in range(count):
        image = images[-1]
        halves = ((s + 1) // 2 for s in image.shape[2:])
        low = image.new_empty(*image.shape[:2], *halves, dtype=torch.float32)
        images.append(haar.run(device, f"wtconv{dims}d_low", image, low, image))
    return images


def _padded(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    return [*tensors, *[None] * (_SLOTS - len(tensors))]


def _apply(
    device: Device,
    dims: int,
    x: Tensor,
    out: Tensor,
    base: tuple[Tensor, Tensor | None, Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    flipped: bool,
) -> None:
    """Writes the convolution of x to `out`; with flipped filters, it is its gradient."""
    kernel = base[0].shape[-1]
    steps = _steps(device, dims, x, kernel, len(weights), flipped, False)
    images = _lows(device, dims, x, len(steps) - 1)
    deeper: Tensor | None = None
    for k in reversed(range(len(steps))):
        args, sizes, first, _ = steps[k]
        last = first + args.levels
        image = images[k]
        result = out if k == 0 else torch.empty_like(image)
        _bind(args, "x", image)
        _bind(args, "y", result)
        bound = base if k == 0 else (None, None, None)
        args.base_weight_dtype, args.base_bias_dtype, args.base_scale_dtype = map(code, bound)
        args.weight_dtype[:] = [*map(code, weights[first:last]), *[NONE] * (_SLOTS - args.levels)]
        args.scale_dtype[:] = [*map(code, scales[first:last]), *[NONE] * (_SLOTS - args.levels)]
        parameters = [*bound, *_padded(weights[first:last]), *_padded(scales[first:last])]
        name = f"wtconv{dims}d_forward_{DTYPES[image.dtype]}"
        device.run(name, sizes, [image, *parameters, deeper, result], args)
        deeper = result


def forward(
    device: Device,
    dims: int,
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
) -> Tensor:
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    base = _dense([base_weight, base_bias, base_scale])
    _apply(device, dims, x, y, base, _dense(weights), _dense(scales), False)
    return y


def backward(
    device: Device,
    dims: int,
    grad_y: Tensor,
    x: Tensor,
    base_weight: Tensor,
    base_bias: Tensor | None,
    base_scale: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    needs: int,
) -> tuple[Any, ...]:
    base = _dense([base_weight, base_bias, base_scale])
    grad_x = torch.empty_like(x) if needs & 1 else x.new_empty(0)
    if needs & 1 and x.numel() > 0:
        turned = (base[0], None, base[2])
        _apply(device, dims, grad_y, grad_x, turned, _dense(weights), _dense(scales), True)
    if not needs >> 1:
        none = [x.new_empty(0) for _ in weights]
        return grad_x, *(x.new_empty(0) for _ in range(3)), none, [n.clone() for n in none]
    return grad_x, *_parameters(device, dims, grad_y, x, base, weights, scales, needs >> 1)


def _parameters(
    device: Device,
    dims: int,
    grad_y: Tensor,
    x: Tensor,
    base: tuple[Tensor, Tensor | None, Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    needs: int,
) -> list[Any]:
    """The gradients of the parameters; `needs` counts from the base's weight on."""
    kernel, bands = base[0].shape[-1], 2**dims

    def result(t: Tensor | None, bit: int) -> Tensor:
        wanted = t is not None and needs >> bit & 1
        # no image adds nothing
        return torch.zeros_like(t).contiguous() if t is not None and wanted else x.new_empty(0)

    grads = [result(t, bit) for bit, t in enumerate(base)]
    grad_weights = [result(w, 3) for w in weights]
    grad_scales = [result(s, 4) for s in scales]
    steps = _steps(device, dims, x, kernel, len(weights), False, True) if x.numel() > 0 else []
    xs = _lows(device, dims, x, len(steps) - 1)
    gradients = _lows(device, dims, grad_y, len(steps) - 1)
    for k, (args, sizes, first, count) in enumerate(steps):
        partial = x.new_empty(count, dtype=torch.float32)
        _bind(args, "x", xs[k])
        _bind(args, "y", gradients[k])
        name = f"wtconv{dims}d_backward_filters_{DTYPES[xs[k].dtype]}"
        device.run(name, sizes, [gradients[k], xs[k], partial], args)
        rows = [(0, 1, base, grads)] if k == 0 else []
        for level in range(first, first + args.levels):
            at = args.base + bands * (level - first)
            scale = scales[level].contiguous()
            given = (weights[level].contiguous(), None, scale)
            wanted = [grad_weights[level], x.new_empty(0), grad_scales[level]]
            rows.append((at, bands, given, wanted))
        for at, width, (weight, bias, scale), targets in rows:
            total = make(
                "FwWtSumArgs",
                channels=x.shape[1],
                chunks=args.chunks,
                taps=kernel**dims,
                bands=width,
                first=at,
                filters=args.base + bands * args.levels,
                weight_dtype=code(weight),
                scale_dtype=code(scale),
                bias_dtype=code(bias),
                grad_weight=targets[0].numel() > 0,
                grad_scale=targets[2].numel() > 0,
                grad_bias=targets[1].numel() > 0,
            )
            out = [targets[0], targets[2], targets[1]]
            device.run(
                f"wtconv{dims}d_backward_sum_float",
                "wt_backward_sum_dispatch",
                [partial, weight, scale, bias, *out],
                total,
            )
    return [*grads, grad_weights, grad_scales]


def _dense(tensors: Sequence[Any]) -> Any:
    return tuple(None if t is None else t.contiguous() for t in tensors)
