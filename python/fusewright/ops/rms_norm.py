"""Root-mean-square norm."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusewright._op import Op
from fusewright.errors import require


def reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    y = x.to(dtype)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def fake(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.float64 if x.dtype is torch.float64 else torch.float32)


RMS_NORM = Op(
    name="rms_norm",
    forward="(Tensor x, Tensor? weight, float eps) -> (Tensor y, Tensor rstd)",
    backward="(Tensor? grad_y, Tensor x, Tensor? weight, Tensor rstd, float eps, int needs) -> (Tensor grad_x, Tensor grad_weight)",
    reference=reference,
    fake=fake,
    supports={"cpu": lambda x, weight, eps: None},
    sample=lambda **k: (torch.randn(3, 5), torch.randn(5), 1e-6),
)


def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6, backend: str | None = None) -> Tensor:
    """y"""
    return RMS_NORM(x, weight, eps, backend=backend)
