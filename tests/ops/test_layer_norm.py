from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fusewright
from fusewright import ArgumentError
from fusewright.ops.layer_norm import LAYER_NORM
from norm_cases import BAD, NormCases


class TestLayerNorm(NormCases):
    op = LAYER_NORM


def test_agrees_with_torch(backend: str, device: str) -> None:
    options = {"dtype": torch.float64, "device": device}
    x, weight, bias, *_ = LAYER_NORM.sample(shape=(5, 6, 33), norm_dims=2, **options)
    y = fusewright.layer_norm(x, weight, bias, normalized_shape=(6, 33), backend=backend)
    torch.testing.assert_close(y, F.layer_norm(x, (6, 33), weight, bias))


def test_a_large_mean_costs_no_accuracy(backend: str, device: str) -> None:
    x = torch.randn(64, 700, device=device) + 1e4
    y = fusewright.layer_norm(x, backend=backend)
    truth = F.layer_norm(x.double(), (700,))
    assert (y - truth).abs().max() < 1e-5
    x.requires_grad_()
    g = torch.randn_like(x)
    (ours,) = torch.autograd.grad(fusewright.layer_norm(x, backend=backend), x, g)
    z = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.layer_norm(z, (700,)), z, g.double())
    assert (ours - expected).norm() / expected.norm() < 2e-6


def test_one_column_is_zero(backend: str, device: str) -> None:
    x = torch.randn(5, 1, device=device)
    assert not fusewright.layer_norm(x, backend=backend).any()


@pytest.mark.parametrize(
    ("change", "text"), [*BAD, ({"bias": torch.randn(9)}, r"bias.shape is \(9,\), must be \(8,\)")]
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=r"\[layer_norm\] .*" + text):
        fusewright.layer_norm(**{"x": torch.randn(2, 8), **change})
