"""Random calls of every operator against the reference: sizes, layouts, dtypes and options."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from check import check_values
from fusewright import _norm, ops
from fusewright._op import Op
from fusewright.ops import linear_act

OPS = ops.load_all()

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
FLAG = st.booleans()
# A row of two equal elements has a gradient of zeros times 1 / sqrt(eps): the tests of the norms
# have smaller ones, on rows that are longer.
EPS = st.sampled_from([1e-3, 0.1])


def sizes(*values: int) -> st.SearchStrategy[int]:
    """Empty, one, odd, a vector's width and one more."""
    return st.sampled_from([0, 1, 2, 3, *values])


def shape(*dims: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*dims)


IMAGE = (sizes(), sizes(8, 17), sizes(7, 16, 33))
WAVELET = {
    "kernel": st.integers(1, 7),
    "levels": st.integers(0, 3),
    "bias": FLAG,
    "channels_last": FLAG,
    "weight_dtype": st.none() | DTYPES,
}
NORM = {
    "shape": st.lists(sizes(5, 16, 37), min_size=1, max_size=4).map(tuple),
    "norm_dims": st.integers(1, 3),
    "eps": EPS,
    "activation": st.sampled_from(_norm.ACTIVATIONS),
    "affine": FLAG,
    "residual": FLAG,
    "weight_dtype": st.none() | DTYPES,
    "residual_dtype": st.none() | DTYPES,
}
# The options of `Op.sample`, beside dtype.
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "haar1d": {"shape": shape(*IMAGE)},
    "haar2d": {"shape": shape(*IMAGE, sizes(7, 16, 33))},
    "ihaar1d": {"shape": shape(*IMAGE)},
    "ihaar2d": {"shape": shape(*IMAGE, sizes(7, 16, 33))},
    "wtconv1d": {"shape": shape(*IMAGE), **WAVELET},
    "wtconv2d": {"shape": shape(*IMAGE, sizes(7, 16)), **WAVELET},
    "causal_conv1d": {
        "shape": shape(sizes(), sizes(8, 33), sizes(7, 64, 131)),
        "width": st.integers(1, 6),
        "weight_dtype": st.none() | DTYPES,
        "bias": FLAG,
        "seq_idx": FLAG,
        "initial_states": FLAG,
        "silu": FLAG,
        "return_final_states": FLAG,
        "channel_last": FLAG,
    },
    "causal_conv1d_update": {
        "shape": shape(sizes(), sizes(8, 33), sizes(5)),
        "width": st.integers(1, 5),
        "length": st.integers(1, 7),
        "states": st.none() | st.integers(3, 5),
        "weight_dtype": st.none() | DTYPES,
        "circular": FLAG,
        "silu": FLAG,
    },
    "causal_conv1d_varlen_states": {
        "lengths": st.lists(sizes(9), max_size=5).map(tuple),
        "channels": sizes(17),
        "state_len": st.integers(0, 5),
    },
    "layer_norm": NORM,
    "rms_norm": {
        **NORM,
        "weight_offset": st.sampled_from([0.0, 1.0]),
        "round_first": FLAG,
    },
    "linear_act": {
        "shape": st.lists(sizes(5, 16), min_size=1, max_size=3).map(tuple),
        "out_features": sizes(7, 16, 33),
        "weight_dtype": st.none() | DTYPES,
        "bias": FLAG,
        "activation": st.sampled_from(linear_act.ACTIVATIONS),
        "keep": FLAG,
    },
}


# Triton compiles its kernels anew for most of the calls.
EXAMPLES = {"triton": 20}


@st.composite
def samples(draw: st.DrawFn, op: Op, device: str) -> list[Any]:
    """Arguments of the operator, every tensor in a layout of its own."""
    options = {name: draw(values) for name, values in OPTIONS[op.name].items()}
    if "norm_dims" in options:
        options["norm_dims"] = min(options["norm_dims"], len(options["shape"]))
    if "length" in options:  # a state holds at least the history
        options["length"] = max(options["length"], options["width"] - 1)
    torch.manual_seed(draw(st.integers(0, 2**31)))
    args = op.sample(dtype=draw(DTYPES), device=device, **options)
    unexpanded = {"conv_state"}  # which is written to
    if op.name == "layer_norm" and options["activation"] == "relu":
        # Equal elements of a row lie at relu's kink, on the side that the mean's rounding picks.
        unexpanded = {"x", "residual"}
    return [
        [in_layout(draw, t) for t in value]
        if isinstance(value, list)
        else in_layout(draw, value, expand=name not in unexpanded)
        for name, value in zip(op.signature.names, args, strict=True)
    ]


def in_layout(draw: st.DrawFn, value: Any, expand: bool = True) -> Any:
    """The same tensor in other strides, or one row of it, expanded."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    kinds = ["as it is", "as it is", "transposed", "sliced"]
    if expand and value.is_floating_point():
        kinds.append("expanded")
    kind = draw(st.sampled_from(kinds))
    first, second = draw(st.tuples(*[st.integers(0, value.dim() - 1)] * 2))
    if kind == "transposed":
        return value.transpose(first, second).contiguous().transpose(first, second)
    if kind == "sliced":  # part of something larger, every second element of one dimension
        larger = [2 * size + 3 if d == first else size + 2 for d, size in enumerate(value.shape)]
        view = torch.full(larger, 77, dtype=value.dtype, device=value.device)
        for d, size in enumerate(value.shape):
            view = view[(slice(None),) * d + (slice(1, None, 2 if d == first else 1),)]
            view = view.narrow(d, 0, size)
        return view.copy_(value)
    if kind == "expanded" and value.shape[first] > 0:
        return value.narrow(first, 0, 1).expand(value.shape)
    return value


@pytest.mark.parametrize("name", OPS)
def test_random_calls(name: str, backend: str, device: str) -> None:
    op = OPS[name]

    @settings(
        max_examples=EXAMPLES.get(backend, 150),
        deadline=None,
        derandomize=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(args=samples(op, device))
    def calls(args: list[Any]) -> None:
        if op.reasons(device, args).get(backend) is None:
            check_values(op, args, backend, few=10**6)

    calls()


def test_every_operator_is_drawn() -> None:
    assert set(OPTIONS) == set(OPS)
