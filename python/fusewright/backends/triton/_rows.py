"""Rows of tensors of any strides: which few sizes and strides a kernel needs to find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

_LEADING, _TRAILING = 3, 2


class Rows(NamedTuple):
    """The elements of equally shaped tensors as a matrix.

    Attributes:
        rows, columns: its size.
        sizes: the last two of three leading sizes, and the last of two trailing ones.
        tensors: the given tensors; copies of those whose strides are too irregular.
        strides: for every tensor, its strides along the three leading and two trailing sizes.
        wide: whether a column's offset may pass 31 bits.
    """

    rows: int
    columns: int
    sizes: tuple[int, int, int]
    tensors: list[Tensor | None]
    strides: list[tuple[int, ...]]
    wide: bool


def as_rows(shape: Sequence[int], norm_dims: int, tensors: Sequence[Tensor | None]) -> Rows:
    """See every tensor of `shape` as rows over its last `norm_dims` dimensions."""
    split = len(shape) - norm_dims
    rows, columns = _product(shape[:split]), _product(shape[split:])
    if all(t is None or t.is_contiguous() for t in tensors):
        dense: list[tuple[int, ...]] = [(columns, 0, 0, 1, 0)] * len(tensors)
        return Rows(rows, columns, (1, 1, 1), list(tensors), dense, columns >= 2**31)
    given = [t for t in tensors if t is not None]
    leading = _merge(shape[:split], [t.stride()[:split] for t in given])
    trailing = _merge(shape[split:], [t.stride()[split:] for t in given])
    if len(leading) > _LEADING or len(trailing) > _TRAILING:
        copies = [None if t is None else t.contiguous() for t in tensors]
        return as_rows(shape, norm_dims, copies)
    # behind, where a size of 1 costs a kernel nothing
    leading += [(1, (0,) * len(given))] * (_LEADING - len(leading))
    trailing += [(1, (0,) * len(given))] * (_TRAILING - len(trailing))
    dims = leading + trailing
    found = iter(zip(*[strides for _, strides in dims], strict=True))
    strides = [(0,) * len(dims) if t is None else next(found) for t in tensors]
    wide = any(size * stride >= 2**31 for size, all_strides in trailing for stride in all_strides)
    sizes = (leading[1][0], leading[2][0], trailing[1][0])
    return Rows(rows, columns, sizes, list(tensors), strides, wide)


def _merge(
    sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> list[tuple[int, tuple[int, ...]]]:
    """Join neighbouring dimensions that every tensor steps through as through one."""
    merged: list[tuple[int, tuple[int, ...]]] = []
    for d, size in enumerate(sizes):
        if size == 1:
            continue
        here = tuple(s[d] for s in strides)
        if merged and all(
            before == size * now for before, now in zip(merged[-1][1], here, strict=True)
        ):
            merged[-1] = (merged[-1][0] * size, here)
        else:
            merged.append((size, here))
    return merged


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
