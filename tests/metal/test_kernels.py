"""The Metal kernels, compiled for the CPU: every one and every dtype against the reference."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
import torch

from cases import CASES, DTYPES, check_rounding, views
from check import check_values
from emulator.arguments import DTYPES as DTYPE_NAMES
from emulator.build import KERNELS

NAME = "emulator"


def test_every_kernel_is_here() -> None:
    assert sorted(CASES) == sorted(p.stem for p in KERNELS.glob("*.metal"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values(emulated: Any, schedule: str, name: str, dtype: torch.dtype) -> None:
    op = emulated[name]
    for options in CASES[name]:
        args = op.sample(**{"dtype": dtype, **options})
        check_values(op, args, NAME, few=64)


@pytest.mark.parametrize("name", [n for n in CASES if n != "causal_conv1d_varlen_states"])
def test_strides(emulated: Any, name: str) -> None:
    op = emulated[name]
    for dtype in DTYPES:
        x, *rest = op.sample(dtype=dtype)
        for layout in views():
            check_values(op, (layout(x), *rest), NAME, few=64)


def test_strides_of_packed_rows(emulated: Any) -> None:
    op = emulated["causal_conv1d_varlen_states"]
    x, *rest = op.sample()
    for view in (x.t().contiguous().t(), x.repeat_interleave(2, 1)[:, ::2], x[:1].expand(x.shape)):
        check_values(op, (view, *rest), NAME)


@pytest.mark.parametrize("name", CASES)
def test_empty(emulated: Any, name: str) -> None:
    op = emulated[name]
    for dim in range(op.sample()[0].dim()):
        if name.startswith("causal_conv1d_") and dim == 0:
            continue  # the shapes of several arguments go together
        shape = [0 if i == dim else s for i, s in enumerate(op.sample()[0].shape)]
        if name.startswith("ihaar"):
            continue
        args = op.sample(channels=0) if "varlen" in name else op.sample(shape=tuple(shape))
        assert op(*args, backend=NAME) is not None


def test_every_parameter_dtype(emulated: Any) -> None:
    """Indices, and parameters beside x, of each dtype that a kernel takes."""
    conv = emulated["causal_conv1d"]
    for dtype in (torch.int32, torch.int64):
        args = list(conv.sample(seq_idx=True, initial_states=True))
        args[3] = args[3].to(dtype)
        check_values(conv, args, NAME)
    update = emulated["causal_conv1d_update"]
    for dtype in (torch.int32, torch.int64):
        args = list(update.sample(states=5, circular=True, length=6))
        args[4], args[5] = args[4].to(dtype), args[5].to(dtype)
        args[1] = args[1].half()
        check_values(update, args, NAME)


def test_states_that_entries_share(emulated: Any, schedule: str) -> None:
    """They run in the order of the batch; a negative one touches none, one too large is NaN."""
    op = emulated["causal_conv1d_update"]
    args = list(op.sample(shape=(6, 5, 2), states=4, length=5, circular=True))
    args[5] = torch.tensor([2, -1, 2, 0, 2, 0], dtype=torch.int32)
    check_values(op, args, NAME)
    args[5] = torch.tensor([2, -1, 7, 0, 3, 1])
    state = args[1].clone()
    y = op(args[0], state, *args[2:], backend=NAME)
    assert y[2].isnan().all()
    assert not y[1].any()
    args[5] = torch.tensor([2, -1, -1, 0, 3, 1])
    own = args[1].clone()
    op.reference(args[0], own, *args[2:])
    assert torch.equal(state, own)


def test_bounds_that_leave_the_rows(emulated: Any) -> None:
    op = emulated["causal_conv1d_varlen_states"]
    x = torch.randn(7, 3)
    y = op(x, torch.tensor([0, 3, 2, 9]), 2, backend=NAME)
    assert torch.equal(y[0], x[1:3].t())
    assert y[1:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stores_round_to_the_nearest_even(emulated: Any, dtype: torch.dtype) -> None:
    check_rounding(emulated["rms_norm"], dtype, NAME)


def test_a_large_mean_costs_no_accuracy(emulated: Any) -> None:
    layer_norm = emulated["layer_norm"]
    x = (torch.randn(64, 700) + 1e4).requires_grad_()
    z = x.detach().double().requires_grad_()
    g = torch.randn(64, 700)
    y, *_ = layer_norm(x, None, None, None, 1, 1e-5, "none", backend=NAME)
    truth = torch.nn.functional.layer_norm(z, (700,))
    assert (y - truth).abs().max() < 1e-5
    (ours,) = torch.autograd.grad(y, x, g)
    (expected,) = torch.autograd.grad(truth, z, g.double())
    assert (ours - expected).norm() / expected.norm() < 2e-6


def test_no_second_derivative_is_wrong(emulated: Any) -> None:
    """Gradients of the reference serve where a kernel's own gradient is asked for."""
    op = emulated["wtconv2d"]
    args = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in op.sample()]
    for backend in (NAME, "reference"):
        (grad,) = torch.autograd.grad(
            op(*args, backend=backend).sin().sum(), args[0], create_graph=True
        )
        (second,) = torch.autograd.grad(grad.square().sum(), args[1])
        if backend == NAME:
            ours = second
    torch.testing.assert_close(ours, second, rtol=1e-4, atol=1e-4)


def test_same_bits_under_every_schedule(metal: Any, emulated: Any) -> None:
    """No result depends on the order in which threads or threadgroups run."""
    for name in ("wtconv2d", "causal_conv1d", "layer_norm", "rms_norm"):
        op = emulated[name]
        args = op.sample(**CASES[name][0])
        results: list[list[torch.Tensor]] = []
        for order in ("in_order", "reversed", "random"):
            metal.schedule = order
            leaves = [a.requires_grad_() for a in args if isinstance(a, torch.Tensor)]
            y = op(*args, backend=NAME)
            y = y if isinstance(y, torch.Tensor) else y[0]
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        metal.schedule = "in_order"
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


class Cost(NamedTuple):
    """The kernels of a call, and the bytes of their tensors in those of x."""

    kernels: list[str]
    traffic: float


def costs(metal: Any, op: Any, options: dict[str, Any]) -> tuple[Cost, Cost]:
    """Those of a forward, and of its backward with every gradient."""
    args = op.sample(**options)
    leaves = [
        t.requires_grad_(op.functions is not None)
        for a in args
        for t in (a if isinstance(a, list) else [a])
        if isinstance(t, torch.Tensor) and t.is_floating_point()
    ]
    size = args[0].numel() * args[0].element_size()

    def since(begin: int, moved: int) -> Cost:
        return Cost(metal.launches[begin:], (metal.moved - moved) / size)

    begin, moved = len(metal.launches), metal.moved
    returned = op(*args, backend=NAME)
    forward = since(begin, moved)
    begin, moved = len(metal.launches), metal.moved
    if op.functions is not None:
        outputs = [returned] if isinstance(returned, torch.Tensor) else returned
        ends = [y for y in outputs if y is not None and y.requires_grad]
        gradients = [torch.ones_like(y) for y in ends]
        torch.autograd.grad(ends, leaves, gradients, allow_unused=True)
    return forward, since(begin, moved)


# What docs/metal.md counts: dispatches and traffic, of the forward and of the backward.
_PLANES = {"shape": (32, 2, 56, 56), "levels": 3}
_LARGE = {"shape": (2, 1, 128, 128), "levels": 3}
_ROWS = {"shape": (64, 800)}


@pytest.mark.parametrize(
    ("name", "options", "forward", "backward"),
    [
        ("haar2d", {"shape": (2, 2, 32, 32)}, (1, 2.0), (1, 2.0)),
        ("ihaar2d", {"shape": (2, 2, 32, 32)}, (1, 2.0), (1, 2.0)),
        # the input, all filters, and each of the base's and the levels' parameters; partial sums
        ("wtconv2d", _PLANES, (1, 2.0), (1 + 1 + 4, 4.5)),
        # a low band first, the deeper levels on it, and the image with their result
        ("wtconv2d", _LARGE, (3, 4.0), (3 + 4 + 4, 9.1)),
        ("causal_conv1d", {"shape": (2, 64, 512)}, (1, 2.0), (3, 5.0)),
        ("causal_conv1d_update", {"shape": (8, 64, 1)}, (1, 5.6), (0, 0.0)),
        ("causal_conv1d_varlen_states", {"lengths": (3, 3, 3)}, (1, 2.1), (1, 2.1)),
        ("layer_norm", _ROWS, (1, 2.0), (3, 5.1)),
        ("layer_norm", {**_ROWS, "residual": True}, (1, 4.0), (3, 6.1)),
        ("rms_norm", _ROWS, (1, 2.0), (3, 5.1)),
    ],
)
def test_costs(
    metal: Any,
    emulated: Any,
    name: str,
    options: dict[str, Any],
    forward: tuple[int, float],
    backward: tuple[int, float],
) -> None:
    for cost, (count, traffic) in zip(
        costs(metal, emulated[name], options), (forward, backward), strict=True
    ):
        assert len(cost.kernels) == count, cost.kernels
        assert cost.traffic == pytest.approx(traffic, abs=0.15)


def test_every_instantiation_runs(metal: Any, emulated: Any) -> None:
    """The names that the files give their kernels are those that the operators ask for."""
    ran: set[str] = set()
    several_steps = {"wtconv1d": (1, 1, 9000), "wtconv2d": (1, 1, 90, 100)}
    for name in CASES:
        options = {"shape": several_steps[name]} if name in several_steps else {}
        for dtype in DTYPES:
            for cost in costs(metal, emulated[name], {"dtype": dtype, **options}):
                ran.update(cost.kernels)
    names: set[str] = set()
    for path in KERNELS.glob("*.metal"):
        text = path.read_text()
        for kernel in re.findall(r'FW_KERNELS\("(\w+)"', text):
            names |= {f"{kernel}_{dtype}" for dtype in DTYPE_NAMES.values()}
        names |= set(re.findall(r'FW_KERNEL\("(\w+)"', text))
        if "FW_WT_FORWARD" in text:
            names |= {f"{path.stem}_forward_{dtype}" for dtype in DTYPE_NAMES.values()}
    assert ran == names
