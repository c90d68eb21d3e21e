"""Results in kept memory: what a tensor of torch's allocator can do."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fusewright as fw
from cached_results import COLUMNS, HUGE, MARKS, ROWS, norm
from fusewright.backends import cpu

pytestmark = MARKS


def test_share_memory() -> None:
    x = torch.randn(ROWS, COLUMNS)
    y = norm(x=x)
    y.share_memory_()
    assert y.is_shared()
    assert torch.equal(y, fw.rms_norm(x))
    assert cpu.cached_memory() > 0  # the memory it was in before
    at = y.data_ptr()
    other = [norm() for _ in range(3)]
    assert at not in [t.data_ptr() for t in other]
    assert torch.equal(y, fw.rms_norm(x))


def test_save_and_load() -> None:
    y, file = norm(), io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    loaded = torch.load(file)
    assert torch.equal(loaded, y)


def test_storage_and_numpy() -> None:
    y = norm()
    assert y.untyped_storage().nbytes() == y.numel() * 4
    assert y.device == torch.device("cpu")
    array = y.numpy()
    at = y.data_ptr()
    expected = y.clone()
    del y
    assert norm().data_ptr() != at  # the array holds the memory
    assert torch.equal(torch.from_numpy(array), expected)


def test_a_result_does_not_grow() -> None:
    """Torch's own error: memory that did not come from its allocator does not grow in place."""
    y = norm()
    y.resize_(ROWS // 2, COLUMNS)
    assert y.shape == (ROWS // 2, COLUMNS)
    y.resize_(ROWS, COLUMNS)
    torch.add(torch.ones(ROWS, COLUMNS), 1, out=y)
    assert bool((y == 2).all())
    with pytest.raises(RuntimeError, match="not resizable"):
        y.resize_(2 * ROWS, COLUMNS)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes(mode: Callable[[], Any]) -> None:
    x = torch.randn(ROWS, COLUMNS, requires_grad=True)
    with mode():
        large, small = norm(x=x), norm(x=x[:5])
    assert large.data_ptr() % HUGE == 0
    assert large.requires_grad == small.requires_grad
    assert large.is_inference() == small.is_inference()


def test_training() -> None:
    """Weights after some steps, to the bit."""

    def train() -> list[Tensor]:
        torch.manual_seed(5)
        norm, conv = fw.nn.RMSNorm(256), fw.nn.CausalConv1d(256, 4)
        parameters = [*norm.parameters(), *conv.parameters()]
        optimizer = torch.optim.Adam(parameters)
        for _ in range(4):
            optimizer.zero_grad()
            x = torch.randn(4, 2048, 256)
            y = conv(norm(x).transpose(1, 2)).transpose(1, 2)
            (norm(y) - x).square().mean().backward()
            optimizer.step()
        return parameters

    cpu.set_cache_limit(0)
    expected = train()
    cpu.set_cache_limit(1000)
    found = train()
    assert cpu.cached_memory() > 0
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_compile() -> None:
    """Inductor reuses buffers in place and reinterprets them."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = fw.rms_norm(x, w, backend="cpu") * 2 + 1
        z = fw.layer_norm(y, w, backend="cpu").view(-1, 2, COLUMNS // 2).relu()
        return y, fw.rms_norm(z.reshape(-1, COLUMNS), w, backend="cpu") + y

    compiled = torch.compile(function)
    held = []
    for _ in range(4):
        x = torch.randn(ROWS, COLUMNS, requires_grad=True)
        w = torch.randn(COLUMNS, requires_grad=True)
        outputs = compiled(x, w)
        held.append((x, w, outputs, torch.autograd.grad(outputs[1].sum(), [x, w])))
    assert cpu.cached_memory() > 0
    for x, w, outputs, gradients in held:
        expected = function(x, w)
        torch.testing.assert_close(outputs, expected)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected[1].sum(), [x, w]))
