"""The tests that the four Haar operators share; their test files import them."""

from __future__ import annotations

import pytest
import torch

from check import check_op, check_values
from fusewright._op import Op

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class HaarCases:
    """A subclass gives the operator and its shapes."""

    op: Op
    small: tuple[int, ...]
    shapes: list[tuple[int, ...]]

    def test_everything(self, backend: str, device: str) -> None:
        args = self.op.sample(shape=self.small, dtype=torch.float64, device=device)
        check_op(self.op, args, backend)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_shapes(self, backend: str, device: str, dtype: torch.dtype) -> None:
        for shape in self.shapes:
            args = self.op.sample(shape=shape, dtype=dtype, device=device)
            check_values(self.op, args, backend)

    def test_strides(self, backend: str, device: str) -> None:
        x, *sizes = self.op.sample(shape=self.small, device=device)
        wide = torch.randn(*(s + 3 for s in x.shape), device=device)
        views = [
            wide[tuple(slice(2, s + 2) for s in x.shape)],
            x.movedim(1, -1).contiguous().movedim(-1, 1),
            x.repeat_interleave(2, -1)[..., ::2],
            x[:1].expand(x.shape),
            x[..., :1].expand(x.shape),
        ]
        for view in views:
            check_values(self.op, (view, *sizes), backend)

    def test_empty(self, backend: str, device: str) -> None:
        for dim in range(len(self.small)):
            shape = tuple(0 if d == dim else s for d, s in enumerate(self.small))
            check_values(self.op, self.op.sample(shape=shape, device=device), backend)
