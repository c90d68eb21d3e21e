# mypy: disable-error-code="union-attr,misc,list-item,call-overload,operator"
from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import fusewright
from check import check_op, check_values
from fusewright import ArgumentError
from fusewright.ops.causal_conv1d import CAUSAL_CONV1D, causal_conv1d

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
STATES = list(itertools.product([False, True], repeat=3))


def sample(**options: Any) -> tuple[Any, ...]:
    return CAUSAL_CONV1D.sample(**options)


@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize(("seq_idx", "initial_states", "return_final_states"), STATES)
def test_everything(
    backend: str,
    device: str,
    channel_last: bool,
    seq_idx: bool,
    initial_states: bool,
    return_final_states: bool,
) -> None:
    args = sample(
        dtype=torch.float64,
        device=device,
        shape=(2, 3, 7),
        channel_last=channel_last,
        seq_idx=seq_idx,
        initial_states=initial_states,
        return_final_states=return_final_states,
    )
    check_op(CAUSAL_CONV1D, args, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_dtypes_and_widths(
    backend: str, device: str, dtype: torch.dtype, width: int, channel_last: bool, silu: bool
) -> None:
    for seq_idx, initial_states, final in STATES:
        args = sample(
            dtype=dtype,
            device=device,
            shape=(2, 37, 45),
            width=width,
            channel_last=channel_last,
            silu=silu,
            seq_idx=seq_idx,
            initial_states=initial_states,
            return_final_states=final,
            bias=not (seq_idx and final),
        )
        check_values(CAUSAL_CONV1D, args, backend)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 8, 16, 129, 130, 151, 372, 1024, 1134])
@pytest.mark.parametrize("channel_last", [False, True])
def test_lengths(backend: str, device: str, length: int, channel_last: bool) -> None:
    for channels in (1, 64, 531):
        args = sample(
            device=device,
            shape=(2, channels, length),
            channel_last=channel_last,
            initial_states=True,
            return_final_states=True,
        )
        # the one sum of a single channel may cancel to any relative error
        check_values(CAUSAL_CONV1D, args, backend, gradients=channels > 1)


def views(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """x's values in layouts that are neither contiguous nor channel-last."""
    b, d, s = x.shape
    wide = torch.randn(b, d + 3, s + 5, dtype=x.dtype, device=x.device)
    wide[:, 1 : d + 1, 2 : s + 2] = x
    last = torch.randn(b, s, d + 7, dtype=x.dtype, device=x.device)
    last[:, :, 3 : d + 3] = x.transpose(1, 2)
    return {
        "slice": wide[:, 1 : d + 1, 2 : s + 2],
        "channel-last slice": last[:, :, 3 : d + 3].transpose(1, 2),
        "every second": x.repeat_interleave(2, -1)[..., ::2],
        "batch innermost": x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides(backend: str, device: str, dtype: torch.dtype) -> None:
    x, *rest = sample(dtype=dtype, device=device, shape=(3, 21, 33), weight_dtype=torch.float32)
    for view in views(x).values():
        assert torch.equal(view, x)
        check_values(CAUSAL_CONV1D, (view, *rest), backend)
    for expanded in (x[:1].expand(3, -1, -1), x[..., :1].expand(-1, -1, 33)):
        check_values(CAUSAL_CONV1D, (expanded, *rest), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1021, 1024, 2053])
@pytest.mark.parametrize("sequences", [None, "long", "short"])
@pytest.mark.parametrize("channel_last", [False, True])
def test_long_rows(
    backend: str,
    device: str,
    dtype: torch.dtype,
    length: int,
    sequences: str | None,
    channel_last: bool,
) -> None:
    """Rows of many packs, aligned or not, whose tokens mostly see all before them, or seldom."""
    x, weight, bias, ids, states, *rest = sample(
        dtype=dtype,
        device=device,
        shape=(2, 24, length),
        channel_last=channel_last,
        seq_idx=True,
        initial_states=True,
        return_final_states=True,
    )
    if sequences == "long":
        ids = torch.arange(length, device=device).div(300, rounding_mode="floor").expand(2, -1)
    args = (x, weight, bias, None if sequences is None else ids, states, *rest)
    check_values(CAUSAL_CONV1D, args, backend)
    if not channel_last:  # no row begins where the tensor does
        wide = torch.randn(2, 24, length + 11, dtype=dtype, device=device)
        wide[..., 3 : 3 + length] = x
        check_values(CAUSAL_CONV1D, (wide[..., 3 : 3 + length], *args[1:]), backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_long_rows(backend: str, device: str, dtype: torch.dtype) -> None:
    """So many that a block of a GPU sums up all rows of a channel, some pieces at a time."""
    shape = (3, 1100 if device == "cuda" else 3, 4160)
    check_values(CAUSAL_CONV1D, sample(dtype=dtype, device=device, shape=shape), backend)


@pytest.mark.parametrize("length", [16512, 16513])  # rows that begin, and don't, on a cache line
@pytest.mark.parametrize("channel_last", [False, True])
def test_results_far_larger_than_the_caches(
    backend: str, device: str, length: int, channel_last: bool
) -> None:
    x, weight, bias = sample(device=device, shape=(1, 128, length), channel_last=channel_last)[:3]
    expected = causal_conv1d(
        x.double(), weight.double(), bias.double(), activation="silu", backend="reference"
    )
    # The CPU kernels write past the caches where the memory was in use before, as the second time:
    # the C library keeps what was freed, up to the size of the largest mapped block so far.
    torch.empty_like(x, dtype=torch.float64).zero_()
    for _ in range(2):
        y = causal_conv1d(x, weight, bias, activation="silu", backend=backend)
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        del y


def test_expanded_output_gradient(backend: str, device: str) -> None:
    x, weight, *_ = sample(device=device)
    x.requires_grad_()
    causal_conv1d(x, weight, backend=backend).sum().backward()  # the gradient has strides of 0
    ours, x.grad = x.grad, None
    causal_conv1d(x, weight, backend="reference").sum().backward()
    torch.testing.assert_close(ours, x.grad)


@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_weight_of_another_dtype(backend: str, device: str, weight_dtype: torch.dtype) -> None:
    args = sample(dtype=torch.bfloat16, device=device, weight_dtype=weight_dtype)
    y = CAUSAL_CONV1D(*args, backend=backend)[0]
    assert y.dtype == torch.bfloat16
    check_values(CAUSAL_CONV1D, args, backend)


def test_chunks_equal_the_whole(backend: str, device: str) -> None:
    """Prefill in chunks: the final states of one chunk are the initial states of the next."""
    x, weight, bias, *_ = sample(dtype=torch.float64, device=device, shape=(2, 5, 23))
    whole = causal_conv1d(x, weight, bias, activation="silu", backend=backend)
    states, parts = None, []
    for chunk in x.split([1, 2, 13, 7], -1):
        y, states = causal_conv1d(
            chunk,
            weight,
            bias,
            initial_states=states,
            return_final_states=True,
            activation="swish",
            backend=backend,
        )
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_packed_chunks_equal_separate_sequences(backend: str, device: str) -> None:
    """seq_idx together with states: a packed row, cut anywhere, equals its sequences alone."""
    x, weight, bias, *_ = sample(dtype=torch.float64, device=device, shape=(1, 4, 20))
    ids = torch.tensor([[0] * 7 + [1] * 2 + [2] * 11], device=device)
    alone = torch.cat(
        [causal_conv1d(part, weight, bias, backend=backend) for part in x.split([7, 2, 11], -1)], -1
    )
    for cut in (3, 7, 8, 9, 15):
        first, states = causal_conv1d(
            x[..., :cut],
            weight,
            bias,
            seq_idx=ids[:, :cut],
            return_final_states=True,
            backend=backend,
        )
        # the states belong to the sequence of the token before the cut
        if ids[0, cut] != ids[0, cut - 1]:
            states = torch.zeros_like(states)
        second = causal_conv1d(
            x[..., cut:],
            weight,
            bias,
            seq_idx=ids[:, cut:],
            initial_states=states,
            backend=backend,
        )
        torch.testing.assert_close(torch.cat([first, second], -1), alone)


def test_padding_tokens_get_no_gradient(backend: str, device: str) -> None:
    x, weight, bias, *_ = sample(dtype=torch.float64, device=device, shape=(1, 3, 9))
    ids = torch.tensor([[-1, -1, 0, 0, 0, -1, -1, 1, 1]], device=device, dtype=torch.int32)
    x.requires_grad_()
    y = causal_conv1d(x, weight, bias, seq_idx=ids, activation="silu", backend=backend)
    assert torch.equal(y[..., ids[0] < 0], torch.zeros(1, 3, 4, dtype=y.dtype, device=device))
    y.square().sum().backward()
    assert x.grad is not None
    assert not x.grad[..., ids[0] < 0].any()
    assert x.grad[..., ids[0] >= 0].all()


def test_final_states_out(backend: str, device: str) -> None:
    x, weight, *_ = sample(device=device, shape=(2, 5, 9))
    out = torch.empty(2, 5, 3, device=device)
    y, states = causal_conv1d(x, weight, final_states_out=out, backend=backend)
    assert states is out
    assert torch.equal(out, x[..., -3:])
    assert y.shape == x.shape


def test_non_finite_values_stay_where_the_reference_has_them(backend: str, device: str) -> None:
    args = list(sample(device=device, shape=(2, 5, 30), seq_idx=True))
    args[0][0, 0, 4], args[0][0, 1, 9], args[0][1, 2, 11] = (
        float("nan"),
        float("inf"),
        -float("inf"),
    )
    check_values(CAUSAL_CONV1D, args, backend, gradients=False)


@pytest.mark.parametrize("channel_last", [False, True])
def test_same_bits_for_any_number_of_threads(backend: str, device: str, channel_last: bool) -> None:
    args = sample(device=device, shape=(3, 70, 700), channel_last=channel_last)
    leaves = [a.requires_grad_() for a in args[:3]]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = CAUSAL_CONV1D(*args, backend=backend)[0]
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": torch.randn(3, 4)}, r"\[causal_conv1d\] x.dim\(\) is 2, must be 3"),
        ({"x": torch.ones(2, 3, 4, dtype=torch.int32)}, "x.dtype is torch.int32"),
        ({"weight": torch.randn(4, 4)}, r"weight.shape is \(4, 4\), must be \(3, width\)"),
        ({"weight": torch.randn(3, 0)}, r"weight.shape is \(3, 0\)"),
        ({"bias": torch.randn(4)}, r"bias.shape is \(4,\), must be \(3,\)"),
        ({"seq_idx": torch.zeros(2, 8)}, "seq_idx.dtype is torch.float32, must be int32 or int64"),
        ({"seq_idx": torch.zeros(2, 7).int()}, r"seq_idx.shape is \(2, 7\), must be \(2, 8\)"),
        ({"initial_states": torch.randn(2, 3, 4)}, r"initial_states.shape is \(2, 3, 4\)"),
        ({"activation": "gelu"}, "activation is 'gelu', must be None, 'silu' or 'swish'"),
        ({"final_states_out": torch.randn(1)}, r"final_states_out.shape is \(1,\)"),
        ({"weight": torch.randn(3, 4, device="meta")}, "weight.device is meta, must be cpu"),
        ({"x": [1.0]}, r"x is \[1.0\] \(list\), must be Tensor"),
    ],
)
def test_bad_input(change: dict[str, Any], text: str) -> None:
    good = {"x": torch.randn(2, 3, 8), "weight": torch.randn(3, 4)}
    with pytest.raises(ArgumentError, match=text):
        fusewright.causal_conv1d(**{**good, **change})
