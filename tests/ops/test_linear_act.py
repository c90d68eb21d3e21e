from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fusewright
from check import assert_close, check_compile, check_op, check_values
from fusewright import ArgumentError
from fusewright.ops.linear_act import ACTIVATIONS, LINEAR_ACT

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("activation", ["none", "gelu", "mish"])
@pytest.mark.parametrize("keep", [False, True])
def test_everything(backend: str, device: str, activation: str, keep: bool) -> None:
    args = LINEAR_ACT.sample(
        dtype=torch.float64, device=device, activation=activation, keep=keep, shape=(2, 3, 5)
    )
    check_op(LINEAR_ACT, args, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dtypes_and_activations(
    backend: str, device: str, dtype: torch.dtype, activation: str
) -> None:
    for shape in ((13,), (1, 13), (70, 33), (2, 3, 5, 8)):
        args = LINEAR_ACT.sample(
            dtype=dtype,
            device=device,
            activation=activation,
            shape=shape,
            out_features=37,
            bias=len(shape) != 4,
        )
        check_values(LINEAR_ACT, args, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 12, 30, 64, 70, 200, 300])
def test_rows_and_columns_of_whole_packs(
    backend: str, device: str, dtype: torch.dtype, rows: int
) -> None:
    """What reads 16 bytes at a time, for few rows and many, with tiles that end early."""
    for activation, (columns, inner) in zip(
        ACTIVATIONS, [(8, 8), (264, 1032), (40, 64), (136, 72), (128, 512)] * 2, strict=False
    ):
        args = LINEAR_ACT.sample(
            dtype=dtype,
            device=device,
            activation=activation,
            shape=(rows, inner),
            out_features=columns,
            bias=columns != 40,
        )
        check_values(LINEAR_ACT, args, backend)
        check_values(LINEAR_ACT, (*args[:-1], False), backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_more_tiles_than_multiprocessors(
    backend: str, device: str, dtype: torch.dtype, activation: str
) -> None:
    """With fewer tiles CUDA's 16-bit products are cuBLAS's."""
    if device != "cuda":
        pytest.skip("the choice is made on GPUs")
    args = LINEAR_ACT.sample(
        dtype=dtype, device=device, activation=activation, shape=(1540, 72), out_features=1416
    )
    check_values(LINEAR_ACT, args, backend)
    check_values(LINEAR_ACT, (*args[:-1], False), backend, gradients=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_keeps_to_its_column(
    backend: str, device: str, dtype: torch.dtype, activation: str
) -> None:
    rows, columns = (1540, 1416) if device == "cuda" else (20, 24)
    x, weight, bias, *_ = LINEAR_ACT.sample(
        dtype=dtype, device=device, shape=(rows, 16), out_features=columns
    )
    least = torch.finfo(dtype).min / 2
    bias[[1, 3, 5, 6]] = torch.tensor([torch.nan, 1e4, torch.nan, least]).to(bias)
    y = fusewright.linear_act(x, weight, bias, activation=activation, backend=backend)
    own = fusewright.linear_act(x, weight, bias, activation=activation, backend="reference")
    torch.testing.assert_close(y, own, rtol=0.02, atol=0.05, equal_nan=True)
    if activation not in ("none", "tanh"):
        assert y[:, 6].abs().max() < 1e-6


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
        # the one sum of a single row or column may cancel
        check_values(LINEAR_ACT, args, backend, few=4)
        check_values(LINEAR_ACT, (*args[:-1], False), backend, few=4)


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
def test_few_rows_of_whole_packs(backend: str, device: str, dtype: torch.dtype, rows: int) -> None:
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


def test_few_rows_of_whole_packs_and_any_strides(backend: str, device: str) -> None:
    x, weight, bias, *rest = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, shape=(3, 4, 48), out_features=24
    )
    wide, shifted = F.pad(x, (8, 8))[..., 8:-8], F.pad(x, (3, 5))[..., 3:-5]
    for rows in (wide, shifted, x.transpose(0, 1), wide[:, ::2], x[:1].expand(x.shape)):
        for other in (F.pad(weight, (8, 16))[:, 8:-16], F.pad(weight, (1, 7))[:, 1:-7]):
            check_values(LINEAR_ACT, (rows, other, bias, *rest), backend)
    check_values(LINEAR_ACT, (x, weight.float(), bias.double(), *rest), backend)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_some_gradients_of_few_rows(backend: str, device: str, needed: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_sum_of_few_rows(backend: str, device: str, activation: str) -> None:
    """Its gradient is one element in memory, expanded."""
    x, weight, bias, *rest = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, activation=activation, shape=(9, 40), out_features=48
    )
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = LINEAR_ACT(*leaves, *rest, backend=backend)
    expected = torch.autograd.grad(y, leaves, torch.ones_like(y), retain_graph=True)
    found = torch.autograd.grad(y.sum(), leaves)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


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


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_at_whole_packs(backend: str, device: str, dynamic: bool) -> None:
    """Where a backend may hand torch.compile the operator in one piece."""
    args = LINEAR_ACT.sample(
        dtype=torch.bfloat16, device=device, shape=(70, 64), out_features=72, activation="silu"
    )
    check_compile(LINEAR_ACT, args, backend, dynamic=dynamic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(backend: str, device: str, dtype: torch.dtype) -> None:
    x, weight, *rest = LINEAR_ACT.sample(dtype=dtype, device=device, shape=(4, 6, 13))
    weights = [weight.t().contiguous().t(), weight.repeat_interleave(2, 1)[:, ::2]]
    views = [
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.repeat_interleave(2, -1)[..., ::2],
        x[:1].expand(x.shape),
        x[..., :1].expand(x.shape),
    ]
    for view in [x, *views]:
        check_values(LINEAR_ACT, (view, weight, *rest), backend)
    for other in weights:
        check_values(LINEAR_ACT, (x, other, *rest), backend)


@pytest.mark.parametrize("shape", [(0, 13), (3, 0), (0,)])
def test_empty(backend: str, device: str, shape: tuple[int, ...]) -> None:
    for activation in ("none", "silu"):
        args = LINEAR_ACT.sample(device=device, shape=shape, activation=activation)
        check_values(LINEAR_ACT, args, backend)
    args = LINEAR_ACT.sample(device=device, shape=(3, 4), out_features=0)
    assert LINEAR_ACT(*args, backend=backend).shape == (3, 0)


@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_parameters_of_another_dtype(backend: str, device: str, weight_dtype: torch.dtype) -> None:
    args = LINEAR_ACT.sample(dtype=torch.bfloat16, weight_dtype=weight_dtype, device=device)
    assert LINEAR_ACT(*args, backend=backend).dtype == torch.bfloat16
    check_values(LINEAR_ACT, args, backend)


def test_autocast(backend: str, device: str) -> None:
    x, weight, bias, *_ = LINEAR_ACT.sample(device=device)
    weight.requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        y = fusewright.linear_act(x, weight, bias, activation="gelu", backend=backend)
        own = F.gelu(F.linear(x, weight, bias))
    rounded = [t.bfloat16().double() for t in (x, weight, bias)]
    assert_close("y", y, own, F.gelu(F.linear(*rounded)))
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_large_arguments_stay_finite(backend: str, device: str) -> None:
    eye = torch.eye(4, device=device)
    x = torch.tensor([-1e4, -100.0, 100.0, 1e4], device=device)
    for activation in ACTIVATIONS:
        y = fusewright.linear_act(x, eye, activation=activation, backend=backend)
        expected = fusewright.linear_act(x, eye, activation=activation, backend="reference")
        torch.testing.assert_close(y, expected)


def test_transforms_find_the_gradient(backend: str, device: str) -> None:
    """torch.func hides requires_grad, by which the public function decides what to keep."""
    x, weight, bias, *_ = LINEAR_ACT.sample(device=device, dtype=torch.float64)

    def loss(w: torch.Tensor, name: str) -> torch.Tensor:
        y = fusewright.linear_act(x, w, bias, activation="silu", backend=name)
        assert isinstance(y, torch.Tensor)
        return y.square().sum()

    ours = torch.func.grad(loss)(weight, backend)
    torch.testing.assert_close(ours, torch.func.grad(loss)(weight, "reference"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": torch.tensor(1.0)}, r"x.dim\(\) is 0, must be at least 1"),
        ({"x": torch.ones(2, 8).int()}, "x.dtype is torch.int32"),
        ({"x": torch.randn(2, 7)}, r"x.shape\[-1\] is 7, must be 8 as weight.shape\[1\]"),
        ({"weight": torch.randn(8)}, r"weight.dim\(\) is 1, must be 2"),
        ({"weight": torch.ones(4, 8).int()}, "weight.dtype is torch.int32"),
        ({"bias": torch.randn(5)}, r"bias.shape is \(5,\), must be \(4,\)"),
        ({"bias": 1.0}, r"bias is 1.0 \(float\), must be Tensor\?"),
        ({"activation": "swish"}, "activation is 'swish', must be None or one of none, relu"),
    ],
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    good = {"x": torch.randn(2, 8), "weight": torch.randn(4, 8), "bias": torch.randn(4)}
    with pytest.raises(ArgumentError, match=r"\[linear_act\] .*" + text):
        fusewright.linear_act(**{**good, **change})


def test_small_products_with_a_gradient_are_left_to_torch() -> None:
    small, large = LINEAR_ACT.sample(), LINEAR_ACT.sample(shape=(256, 256), out_features=256)
    assert LINEAR_ACT.default("cpu", small) == "reference"
    assert LINEAR_ACT.default("cpu", (*small[:-1], False)) == "cpu"
    assert LINEAR_ACT.default("cpu", large) == "cpu"
    x, weight, bias = small[:3]
    assert "linear_act -> cpu" in str(fusewright.explain("linear_act", x, weight, bias))
    x.requires_grad_()
    assert "faster below" in str(fusewright.explain("linear_act", x, weight, bias))


SMALL = [(32, 64, 64), (33, 65, 129), (35, 1, 7), (47, 113, 95), (70, 7, 1), (999, 33, 30)]


@pytest.mark.parametrize(("rows", "columns", "inner"), SMALL)
def test_small_products(backend: str, device: str, rows: int, columns: int, inner: int) -> None:
    """Panels of the weight of every width, the last vector and the last rows in part."""
    for i, activation in enumerate(ACTIVATIONS):
        args = LINEAR_ACT.sample(
            device=device,
            activation=activation,
            shape=(rows, inner),
            out_features=columns,
            bias=i % 3 != 0,
        )
        check_values(LINEAR_ACT, args, backend, gradients=False)
        check_values(LINEAR_ACT, (*args[:-1], False), backend, gradients=False)
    _, weight, bias, *rest = args
    wide = torch.randn(columns, inner + 9, device=device)[:, 4 : 4 + inner]
    rows_apart = torch.randn(rows, 3, inner, device=device)[:, 1]
    for other in (wide, weight.flip(1), weight[:1].expand(columns, inner)):
        check_values(LINEAR_ACT, (rows_apart, other, bias, *rest), backend, gradients=False)
    check_values(LINEAR_ACT, (rows_apart.flip(1), wide, bias, *rest), backend, gradients=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_threads_that_begin_within_a_row(backend: str, device: str, dtype: torch.dtype) -> None:
    for activation in ("gelu", "tanh"):
        args = LINEAR_ACT.sample(
            dtype=dtype,
            device=device,
            activation=activation,
            shape=(7, 43, 29),
            out_features=151,
        )
        check_values(LINEAR_ACT, args, backend)
        check_values(LINEAR_ACT, (*args[:-1], False), backend)


def test_default_without_gradient(device: str) -> None:
    """What takes the short way to the CPU kernel, and what must not."""
    x, weight, bias, *_ = LINEAR_ACT.sample(device=device, shape=(2, 40, 24), out_features=17)
    expected = F.silu(F.linear(x, weight, bias))

    def call(*args: torch.Tensor) -> torch.Tensor:
        return fusewright.linear_act(*args, activation="silu")

    torch.testing.assert_close(call(x, weight, bias), expected)
    torch.testing.assert_close(call(x, weight), F.silu(F.linear(x, weight)))
    torch.testing.assert_close(
        call(x, weight.double(), bias.half()), expected, rtol=1e-3, atol=1e-3
    )
    with torch.autocast(device, dtype=torch.bfloat16):
        assert call(x, weight, bias).dtype == torch.bfloat16
    mapped = torch.func.vmap(call, (0, None, None))(x, weight, bias)
    torch.testing.assert_close(mapped, expected)
    slope = torch.func.grad(lambda x: call(x, weight, bias).sum())(x)
    wanted = torch.func.grad(lambda x: F.silu(F.linear(x, weight, bias)).sum())(x)
    torch.testing.assert_close(slope, wanted)
    with fusewright.use_backend("reference"):
        assert torch.equal(call(x, weight, bias), expected)
    for wrong in ((x.long(), weight.long(), bias.long()), (x, weight[:, 1:], bias)):
        with pytest.raises(ArgumentError, match="must be"):
            call(*wrong)
