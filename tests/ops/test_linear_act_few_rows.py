"""Few rows, where all the work is to read the weight and to write its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from check import check_values
from fusewright.ops.linear_act import ACTIVATIONS, LINEAR_ACT


@pytest.mark.parametrize("rows", [*range(1, 18), 27, 32, 33])
def test_few_rows(backend: str, device: str, rows: int) -> None:
    """Tiles of rows and of columns that end early, an inner dimension of several blocks."""
    for i, activation in enumerate(ACTIVATIONS):
        args = LINEAR_ACT.sample(
            device=device,
            activation=activation,
            shape=(rows, (1, 7, 32, 77, 1553, 3)[(i + rows) % 6]),
            out_features=(1, 16, 37, 6, 69)[(i + rows) % 5],
            bias=i % 3 != 0,
        )
        check_values(LINEAR_ACT, args, backend)
        check_values(LINEAR_ACT, (*args[:-1], False), backend)


def test_few_rows_of_any_strides(backend: str, device: str) -> None:
    x, weight, bias, *rest = LINEAR_ACT.sample(device=device, shape=(3, 3, 45), out_features=21)
    wide = torch.randn(21, 64, device=device)
    for rows in (x, x.transpose(0, 1), x.repeat_interleave(2, -1)[..., ::2], x[:1].expand(x.shape)):
        for other in (weight, wide[:, 5:50], wide[:1, :45].expand(21, 45), weight[:, ::1].flip(1)):
            for shift in (bias, bias.repeat_interleave(3)[::3], bias[:1].expand(21)):
                check_values(LINEAR_ACT, (rows, other, shift, *rest), backend)


@pytest.mark.parametrize("rows", [7, 32])
def test_few_rows_and_a_large_weight(backend: str, device: str, rows: int) -> None:
    """The gradient of x has a product of its own only where the weight is larger than caches."""
    if backend != "cpu":
        pytest.skip("the choice is the CPU kernels'")
    x, weight, *rest = LINEAR_ACT.sample(device=device, shape=(rows, 4099), out_features=2053)
    check_values(LINEAR_ACT, (x, weight, *rest), backend)
    wide = F.pad(weight, (3, 5))
    check_values(LINEAR_ACT, (x, wide[:, 3:-5], *rest), backend)


def test_few_rows_do_not_depend_on_the_threads(backend: str, device: str) -> None:
    if backend != "cpu":
        pytest.skip("threads are the CPU kernels'")
    x, weight, *rest = LINEAR_ACT.sample(shape=(9, 4099), out_features=2053)
    x.requires_grad_()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = LINEAR_ACT(x, weight, *rest, backend=backend)
            results.append((y, *torch.autograd.grad(y.sum(), x)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_whole_packs(backend: str, device: str, dtype: torch.dtype, rows: int) -> None:
    """What CUDA's gradients share out: strips that end early, one share and several."""
    shapes = [(8, 8), (72, 136), (520, 24), (1160, 264)]
    if device == "cuda":  # so wide that a share is longer than a block keeps at once
        shapes.append((1096, 17032))
    for i, (columns, inner) in enumerate(shapes):
        args = LINEAR_ACT.sample(
            dtype=dtype,
            device=device,
            activation=ACTIVATIONS[(i + rows) % len(ACTIVATIONS)],
            shape=(rows, inner),
            out_features=columns,
            bias=i != 1,
        )
        check_values(LINEAR_ACT, args, backend)
        check_values(LINEAR_ACT, (*args[:-1], False), backend)


def test_whole_packs_of_any_strides(backend: str, device: str) -> None:
    x, weight, bias, *rest = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, shape=(3, 4, 48), out_features=24
    )
    wide, shifted = F.pad(x, (8, 8))[..., 8:-8], F.pad(x, (3, 5))[..., 3:-5]
    for rows in (wide, shifted, x.transpose(0, 1), wide[:, ::2], x[:1].expand(x.shape)):
        for other in (F.pad(weight, (8, 16))[:, 8:-16], F.pad(weight, (1, 7))[:, 1:-7]):
            check_values(LINEAR_ACT, (rows, other, bias, *rest), backend)
    check_values(LINEAR_ACT, (x, weight.float(), bias.double(), *rest), backend)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_some_gradients(backend: str, device: str, needed: tuple[int, ...]) -> None:
    args = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, activation="silu", shape=(6, 40), out_features=56
    )
    leaves = [t.detach().requires_grad_(i in needed) for i, t in enumerate(args[:3])]
    y = LINEAR_ACT(*leaves, *args[3:], backend=backend)
    found = torch.autograd.grad(y, [leaves[i] for i in needed], y.detach())
    everything = [t.detach().requires_grad_() for t in args[:3]]
    y = LINEAR_ACT(*everything, *args[3:], backend=backend)
    expected = torch.autograd.grad(y, everything, y.detach())
    for i, gradient in zip(needed, found, strict=True):
        torch.testing.assert_close(gradient, expected[i], rtol=2e-2, atol=2e-2)


def test_nan_keeps_to_its_row(backend: str, device: str) -> None:
    """Neither the rows that fill a tile nor those of others get it."""
    x, weight, bias, *rest = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, activation="gelu", shape=(5, 64), out_features=80
    )
    x[4, 7] = torch.nan
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    cotangent = torch.ones(5, 80, device=device, dtype=x.dtype)
    cotangent[1, 3], cotangent[4] = torch.inf, 0
    y = LINEAR_ACT(*leaves, *rest, backend=backend)
    dx, dweight, dbias = torch.autograd.grad(y, leaves, cotangent)
    touched = [(~t.isfinite()).any(-1).tolist() for t in (y, dx)]
    assert touched == [[False] * 4 + [True], [False, True, False, False, True]]
    assert torch.stack((dweight.sum(-1), dbias)).isnan().all()
