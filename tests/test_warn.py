from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import fusewright
from fusewright.ops.rms_norm import RMS_NORM


@pytest.mark.parametrize("module", [False, True])
def test_the_warning_points_at_the_users_line(module: bool) -> None:
    """Not into the package, nor into torch, whose modules call the operator."""
    x = torch.randn(4, 8).to(torch.float8_e4m3fn)  # of a type that no kernel takes
    layer = nn.Sequential(fusewright.nn.RMSNorm(8, eps=1e-3, elementwise_affine=False))
    call = layer if module else fusewright.rms_norm
    RMS_NORM._warned.clear()
    with pytest.warns(RuntimeWarning, match="runs as plain PyTorch on cpu") as caught:
        call(x)
    (warning,) = caught
    assert warning.filename == __file__
    lines, first = inspect.getsourcelines(test_the_warning_points_at_the_users_line)
    assert lines[warning.lineno - first].strip() == "call(x)"
