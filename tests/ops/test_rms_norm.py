from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fusewright
from check import check_values
from fusewright import ArgumentError
from fusewright.ops.rms_norm import RMS_NORM
from norm_cases import BAD, DTYPES, NormCases


class TestRMSNorm(NormCases):
    op = RMS_NORM


def test_agrees_with_torch(backend: str, device: str) -> None:
    options = {"dtype": torch.float64, "device": device}
    x, weight, *_ = RMS_NORM.sample(shape=(5, 6, 33), norm_dims=2, **options)
    y = fusewright.rms_norm(x, weight, normalized_shape=(6, 33), eps=1e-6, backend=backend)
    torch.testing.assert_close(y, F.rms_norm(x, (6, 33), weight, 1e-6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_llama_rounds_before_the_weight(backend: str, device: str, dtype: torch.dtype) -> None:
    x, weight, *_ = RMS_NORM.sample(shape=(40, 129), dtype=dtype, device=device)
    h = x.float()
    h = (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype)
    y = fusewright.rms_norm(x, weight, casting="llama", backend=backend)
    # rsqrt's last bit may turn a rounding, which then may turn that of the product
    assert (y != weight * h).float().mean() < 0.01
    torch.testing.assert_close(y, weight * h, rtol=2.1 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("residual_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_llama_with_a_residual_of_another_type(
    backend: str, device: str, dtype: torch.dtype, residual_dtype: torch.dtype
) -> None:
    """What is rounded is the normalised row, to x's type; the sum is of the residual's."""
    x, weight, residual, *_ = RMS_NORM.sample(
        shape=(40, 33),
        dtype=dtype,
        residual=True,
        residual_dtype=residual_dtype,
        weight_dtype=torch.float32,
        round_first=True,
        device=device,
    )
    y, total = fusewright.rms_norm(
        x, weight.requires_grad_(), residual=residual, casting="llama", backend=backend
    )
    g = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, weight, g)
    h = total.float()
    h = (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(dtype).float()
    # one that turned at a tie is half a step of one product off
    steps = torch.finfo(dtype).eps * 4
    torch.testing.assert_close(grad, (g.float() * h).sum(0), rtol=1e-5, atol=1e-5 + steps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gemma_adds_one_to_the_weight(backend: str, device: str, dtype: torch.dtype) -> None:
    x, weight, *_ = RMS_NORM.sample(shape=(40, 129), dtype=dtype, device=device)
    h = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    expected = (h * (1.0 + weight.float())).type_as(x)
    y = fusewright.rms_norm(x, weight, weight_offset=1.0, backend=backend)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_casting_and_offset(backend: str, device: str, dtype: torch.dtype) -> None:
    for round_first, offset in ((True, 0.0), (False, 1.0), (True, 1.0)):
        args = RMS_NORM.sample(
            dtype=dtype,
            device=device,
            activation="silu",
            round_first=round_first,
            weight_offset=offset,
        )
        check_values(RMS_NORM, args, backend)


@pytest.mark.parametrize(
    ("change", "text"),
    [*BAD, ({"casting": "gemma"}, "casting is 'gemma', must be 'fp32' or 'llama'")],
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=r"\[rms_norm\] .*" + text):
        fusewright.rms_norm(**{"x": torch.randn(2, 8), **change})
