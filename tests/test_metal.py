"""The Metal kernels on a device "mps": a Mac's, or the one that tests/metal/host builds on Linux.

tests/ops run there as on every other device; here is what only this one can get wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fusewright
import test_kernel_checks as kernel_checks
from check import check_compile, check_registration, check_values, check_vmap, map_tensors
from fusewright import BackendNotBuiltError, backends, ops

OPS = {name: op for name, op in ops.load_all().items() if "metal" in op.supports}
METAL = backends.installed()["metal"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

on_device = pytest.mark.skipif(METAL.error is not None, reason="no Metal kernels here")


@pytest.mark.skipif(METAL.error is None, reason="there are Metal kernels")
def test_without_the_kernels() -> None:
    explanation = fusewright.explain("haar2d", torch.ones(1, 2, 4, 4))
    assert "Metal" in explanation.reasons["metal"]
    with pytest.raises(BackendNotBuiltError, match="Metal"):
        fusewright.haar2d(torch.ones(1, 2, 4, 4), backend="metal")


@on_device
def test_the_library_says_what_it_is() -> None:
    assert set(METAL.describe()) == {"version", "compiler", "metal"}
    assert fusewright.explain("haar2d", torch.ones(1, 2, 4, 4, device="mps")).backend == "metal"


@on_device
@pytest.mark.parametrize("name", OPS)
def test_registration(name: str) -> None:
    op = OPS[name]
    check_registration(op, op.sample(device="mps"), "metal")


@on_device
@pytest.mark.parametrize("name", [n for n in OPS if n != "causal_conv1d_update"])
def test_compile_and_vmap(name: str) -> None:
    op = OPS[name]
    check_compile(op, op.sample(device="mps"), "metal")
    check_vmap(op, op.sample(device="mps"), "metal")


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_storage_offsets(name: str, dtype: torch.dtype) -> None:
    """Every tensor begins somewhere in its buffer, and the binding begins there too."""

    def inside(t: Tensor) -> Tensor:
        around = torch.full((t.numel() + 11,), float("nan"), dtype=t.dtype, device=t.device)
        place = around[3 : 3 + t.numel()].view(t.shape)
        return place.copy_(t)

    op = OPS[name]
    args = map_tensors(inside, op.sample(device="mps", dtype=dtype))
    check_values(op, args, "metal")


@on_device
def test_between_kernels_of_torch() -> None:
    """torch's kernels leave an encoder open, which ends before another one begins."""
    x = torch.randn(2, 3, 8, 6, device="mps", requires_grad=True)
    y = fusewright.haar2d((x * 2).relu(), backend="metal")
    z = fusewright.ihaar2d(y.abs() + 1, backend="metal")
    (z * z).sum().backward()
    assert x.grad is not None
    w = x.detach().cpu().requires_grad_()
    y = fusewright.haar2d((w * 2).relu(), backend="reference")
    z = fusewright.ihaar2d(y.abs() + 1, backend="reference")
    (z * z).sum().backward()
    torch.testing.assert_close(x.grad.cpu(), w.grad, rtol=1e-4, atol=1e-5)


# What only the GPU could read gives NaN there; there is no float64; no kernel for linear_act.
OTHERWISE = {
    "conv_state_indices has 3, must be below 3",
    "cu_seqlens[1] is 14, must be from 0 to 13",
    "must be from 0 to 13",
    "must be from 0 to 2",
}


def _asked(call: Callable[[], Any]) -> set[Any]:
    return set(call.__code__.co_consts)


@on_device
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (call, text)
        for call, text in kernel_checks.CALLS
        if "linear_act" not in _asked(call) and "Double" not in text
    ],
)
def test_kernel_refuses(
    call: Callable[[], Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_checks, "place", {"backend": "metal", "device": "mps"})
    if text in OTHERWISE:
        returns = call()
        assert not returns.isfinite().all() or "must be from 0 to 2" in text
        return
    with pytest.raises(RuntimeError, match=r"\[\w+\] "):
        call()
