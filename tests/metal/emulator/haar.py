"""haar1d, haar2d and their inverses on the emulated device."""

from __future__ import annotations

from torch import Tensor

from emulator.arguments import DTYPES, make
from emulator.device import Device


def run(device: Device, kernel: str, x: Tensor, y: Tensor, image: Tensor) -> Tensor:
    """A Haar kernel; `image` is whichever of x and y holds pixels and not bands."""
    flat = x.dim() == 3
    strides = (x.stride(0), x.stride(1), 0 if flat else x.stride(2), x.stride(-1))
    args = make(
        "FwHaarArgs",
        planes=image.shape[0] * image.shape[1],
        channels=image.shape[1],
        height=1 if flat else image.shape[2],
        width=image.shape[-1],
        **dict(zip(("stride_n", "stride_c", "stride_h", "stride_w"), strides, strict=True)),
    )
    device.run(f"{kernel}_{DTYPES[x.dtype]}", "haar_dispatch", [x, y], args)
    return y


def forward(device: Device, dims: int, x: Tensor, *size: int) -> Tensor:
    halves = ((s + 1) // 2 for s in x.shape[2:])
    y = x.new_empty(x.shape[0], x.shape[1] << dims, *halves)
    return run(device, f"haar{dims}d_forward", x, y, x)


def inverse(device: Device, dims: int, x: Tensor, *size: int) -> Tensor:
    y = x.new_empty(x.shape[0], x.shape[1] >> dims, *size)
    return run(device, f"ihaar{dims}d_forward", x, y, y)
