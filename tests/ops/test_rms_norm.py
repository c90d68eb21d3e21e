from __future__ import annotations

import torch
from check import check_op

from fusewright.ops.rms_norm import RMS_NORM


def test_everything(backend: str, device: str) -> None:
    check_op(RMS_NORM, (torch.randn(3, 5).double(), torch.randn(5).double(), 1e-6), backend)
