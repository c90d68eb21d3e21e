from __future__ import annotations

from typing import Any

import pytest
import torch

import fusewright
from check import assert_close, check_registration
from fusewright import ArgumentError, UnsupportedError
from fusewright.ops.causal_conv1d_update import CAUSAL_CONV1D_UPDATE as OP

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def run(args: tuple[Any, ...], backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """y and the changed state; the arguments stay as they were."""
    x, state, *rest = args
    state = state.clone()
    return OP(x, state, *rest, backend=backend), state


def check(args: tuple[Any, ...], backend: str) -> None:
    y, state = run(args, backend)
    own, own_state = run(args, "reference")
    truth, _ = run(
        tuple(
            a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
        ),
        "reference",
    )
    assert_close("y", y, own, truth)
    assert torch.equal(state, own_state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("states", [None, 9])
def test_against_the_reference(
    backend: str, device: str, dtype: torch.dtype, circular: bool, states: int | None
) -> None:
    for width, length in ((4, 3), (4, 7), (2, 1), (3, 5), (1, 2), (6, 5)):
        for steps in (1, 2, 5, 12):
            args = OP.sample(
                dtype=dtype,
                device=device,
                shape=(4, 37, steps),
                width=width,
                length=length,
                states=states,
                circular=circular,
            )
            check(args, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("states", [None, 9])
def test_one_step_of_whole_packs(
    backend: str, device: str, dtype: torch.dtype, width: int, circular: bool, states: int | None
) -> None:
    for length in (width - 1, width):
        args = OP.sample(
            dtype=dtype,
            device=device,
            shape=(5, 64, 1),
            width=width,
            length=length,
            circular=circular,
            states=states,
        )
        check(args, backend)


@pytest.mark.parametrize("circular", [False, True])
def test_steps_equal_the_whole(backend: str, device: str, circular: bool) -> None:
    x, _, weight, bias, *_ = OP.sample(dtype=torch.float64, device=device, shape=(2, 5, 17))
    whole = fusewright.causal_conv1d(x, weight, bias, activation="silu", backend=backend)
    state = torch.zeros(2, 5, 6, dtype=x.dtype, device=device)
    parts, seen = [], 0
    for part in x.split([1, 1, 4, 1, 6, 4], -1):
        seqlens = torch.full((2,), seen, device=device).int() if circular else None
        y = fusewright.causal_conv1d_update(
            part, state, weight, bias, "silu", seqlens, backend=backend
        )
        parts.append(y)
        seen += part.shape[-1]
    torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_negative_index_leaves_the_state_alone(backend: str, device: str) -> None:
    x, state, weight, bias, *_ = OP.sample(device=device, shape=(3, 5, 2), states=6)
    indices = torch.tensor([4, -1, 0], device=device)
    before = state.clone()
    y = fusewright.causal_conv1d_update(
        x, state, weight, bias, conv_state_indices=indices, backend=backend
    )
    assert not y[1].any()
    untouched = [1, 2, 3, 5]
    assert torch.equal(state[untouched], before[untouched])
    assert not torch.equal(state[[0, 4]], before[[0, 4]])


def test_entries_that_share_a_state_run_in_order(backend: str, device: str) -> None:
    x, _, weight, *_ = OP.sample(dtype=torch.float64, device=device, shape=(3, 5, 1))
    state = torch.zeros(1, 5, 3, dtype=x.dtype, device=device)
    indices = torch.zeros(3, device=device).int()
    y = fusewright.causal_conv1d_update(
        x, state, weight, conv_state_indices=indices, backend=backend
    )
    row = fusewright.causal_conv1d(x.permute(2, 1, 0), weight, backend="reference")
    torch.testing.assert_close(y, row.permute(2, 1, 0))
    assert torch.equal(state[0], x[..., 0].t())


def test_strides(backend: str, device: str) -> None:
    args = OP.sample(device=device, shape=(3, 8, 4), length=5)
    x, state, *rest = args
    strided = torch.zeros(3, 5, 16, device=device)[:, :, ::2].transpose(1, 2)
    strided.copy_(state)
    y, expected = (
        OP(x.transpose(1, 2).contiguous().transpose(1, 2), strided, *rest),
        run(args, backend),
    )
    torch.testing.assert_close(y, expected[0])
    assert torch.equal(strided, expected[1])


def test_two_dimensional_input(backend: str, device: str) -> None:
    x, state, weight, bias, *_ = OP.sample(device=device)
    y = fusewright.causal_conv1d_update(
        x[..., 0], state.clone(), weight, bias, "swish", backend=backend
    )
    assert torch.equal(y, run((x, state, weight, bias, None, None, True), backend)[0][..., 0])


def test_registration(backend: str, device: str) -> None:
    args = OP.sample(dtype=torch.float64, device=device, circular=True, states=5)
    check_registration(OP, args, backend)


def test_compiled_call_changes_the_state(backend: str, device: str) -> None:
    x, state, weight, bias, *_ = OP.sample(device=device)
    compiled = torch.compile(
        lambda *a: fusewright.causal_conv1d_update(*a, backend=backend),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = run((x, state, weight, bias, None, None, False), backend)
    y = compiled(x, state, weight, bias)
    torch.testing.assert_close((y, state), expected)


def test_has_no_gradient() -> None:
    x, state, weight, *_ = OP.sample()
    with pytest.raises(UnsupportedError, match="has no gradient"):
        fusewright.causal_conv1d_update(x, state, weight.requires_grad_())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": torch.randn(3)}, r"x.dim\(\) is 1, must be 2"),
        ({"x": torch.ones(3, 5).int()}, "x.dtype is torch.int32"),
        ({"conv_state": torch.randn(3, 5, 2)}, r"conv_state.shape is \(3, 5, 2\), must be"),
        ({"conv_state": torch.randn(2, 5, 3)}, r"conv_state.shape\[0\] is 2, must be 3"),
        ({"conv_state": torch.ones(3, 5, 3).int()}, "conv_state.dtype is torch.int32"),
        ({"weight": torch.randn(4, 4)}, r"weight.shape is \(4, 4\)"),
        ({"bias": torch.randn(4)}, r"bias.shape is \(4,\)"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"cache_seqlens": torch.zeros(2).int()}, r"cache_seqlens.shape is \(2,\), must be \(3,\)"),
        ({"cache_seqlens": torch.zeros(3)}, "cache_seqlens.dtype is torch.float32"),
        ({"conv_state_indices": torch.zeros(3)}, "conv_state_indices.dtype is torch.float32"),
    ],
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    x, state, weight, bias, *_ = OP.sample()
    good = {"x": x[..., 0], "conv_state": state, "weight": weight, "bias": bias}
    with pytest.raises(ArgumentError, match=r"\[causal_conv1d_update\] .*" + text):
        fusewright.causal_conv1d_update(**{**good, **change})


def test_index_beyond_the_states(backend: str, device: str) -> None:
    x, state, weight, *_ = OP.sample(device=device)
    indices, before = torch.tensor([0, 3, 1], device=device), state.clone()
    if device == "cpu":
        with pytest.raises(RuntimeError, match="conv_state_indices has 3, must be below 3"):
            fusewright.causal_conv1d_update(
                x, state, weight, conv_state_indices=indices, backend=backend
            )
        return
    y = fusewright.causal_conv1d_update(
        x, state, weight, conv_state_indices=indices, backend=backend
    )
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()
    assert torch.equal(state[2], before[2])
