"""Sizes, strides and blocks of the images that the wavelet convolutions pass on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from fusewright.backends.triton._launch import power_of_2


def is_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1 and product(x.shape[2:]) > 1


def dense(image: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A dense image of other sizes, with channels last as in `image`."""
    n, c = image.shape[:2]
    if is_last(image):
        return image.new_empty((n, *sizes, c), dtype=dtype).movedim(-1, 1)
    return image.new_empty((n, c, *sizes), dtype=dtype)


def halves(image: Tensor) -> list[int]:
    return [-(-size // 2) for size in image.shape[2:]]


def blocks(image: Tensor, sizes: Sequence[int]) -> dict[str, int]:
    """Channels and positions of a program, the more of what is dense in memory."""
    positions = power_of_2(product(sizes))
    channels = power_of_2(image.shape[1])
    if is_last(image):
        wide = min(channels, 32)
        return {"BLOCK_C": wide, "BLOCK_P": min(positions, 512 // wide)}
    long = min(positions, 512)
    return {"BLOCK_C": min(channels, 512 // long), "BLOCK_P": long}


def walking_blocks(image: Tensor, sizes: Sequence[int]) -> dict[str, int]:
    """The same for a program that walks down columns: the filters of one channel are scalars."""
    wide = min(power_of_2(image.shape[1]), 32) if is_last(image) else 1
    return {"BLOCK_C": wide, "BLOCK_P": min(power_of_2(product(sizes)), 128 // wide)}


def programs(image: Tensor, sizes: Sequence[int], block: dict[str, int]) -> int:
    tiles = triton.cdiv(product(sizes), block["BLOCK_P"])
    return image.shape[0] * triton.cdiv(image.shape[1], block["BLOCK_C"]) * tiles


def product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def sizes(image: Tensor) -> tuple[int, int, int]:
    height, width = (1, *image.shape[2:])[-2:]
    return image.shape[1], height, width


def strides(image: Tensor) -> tuple[int, ...]:
    s = image.stride()
    return s if len(s) == 4 else (s[0], s[1], 0, s[2])


def vector(image: Tensor, most: int = 8) -> int:
    """How many pixels are loaded at once: rows must begin and end at multiples of it."""
    return math.gcd(most, image.shape[3], *image.stride()[:3])


def whole(*images: Tensor) -> dict[str, bool]:
    """Whether images of one size have whole blocks, and the pixels of a row of these lie together.

    Two of them are then one load, where rows begin at even places, too.
    """
    even = all(size % 2 == 0 for size in images[0].shape[2:])
    pairs = even and all(
        t.stride(-1) == 1 and all(step % 2 == 0 for step in t.stride()[:-1]) for t in images
    )
    return {"EVEN": bool(even), "PAIRS": bool(pairs)}
