"""Calls that go past the Python layer: where a wrong shape, stride or type would reach memory that
is not the tensor's, the kernel itself raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fusewright import ops
from fusewright._derivative import as_tuple

OPS = ops.load_all()
place = {"backend": "cpu", "device": "cpu"}  # of the calls below; test_cuda.py changes it


def f(*shape: Any, **options: Any) -> Tensor:
    return torch.randn(*shape, **options)


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def moved(changes: dict[str, Any]) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(v) for v in value]
        is_here = isinstance(value, Tensor) and value.is_cpu
        return value.to(place["device"]) if is_here else value

    return {name: move(value) for name, value in changes.items()}


def forward(name: str, **changes: Any) -> Any:
    """The forward kernel on the operator's sample, with some arguments changed."""
    op = OPS[name]
    sample = op.sample(device=place["device"])
    args = {**dict(zip(op.signature.names, sample, strict=True)), **moved(changes)}
    return op.kernels[place["backend"]].forward(*args.values())


def backward(name: str, sample: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The backward kernel after a right forward, with some arguments changed."""
    op = OPS[name]
    kernels, signature = op.kernels[place["backend"]], op.backward_signature
    assert signature is not None
    assert kernels.backward is not None
    args = op.sample(device=place["device"], **(sample or {}))
    env = dict(zip(op.signature.names, args, strict=True))
    returns = as_tuple(kernels.forward(*args))
    env.update(zip((r.name for r in op.signature.returns), returns, strict=True))
    for output in op.outputs:
        env[f"grad_{output}"] = torch.randn_like(env[output]) if env[output].numel() else None
    env["needs"] = 2 ** len(signature.returns) - 1
    return kernels.backward(*({**env, **moved(changes)}[n] for n in signature.names))


CALLS: list[tuple[Callable[[], Any], str]] = [
    # the haar samples are of (2, 3, 17) and (2, 3, 9, 17)
    (lambda: forward("haar1d", x=f(17)), "x.dim() is 1, must be 3"),
    (lambda: forward("haar1d", x=f(())), "x.dim() is 0, must be 3"),
    (lambda: forward("haar1d", width=99), "x is an image of 1 x 17, must be of 1 x 99"),
    (lambda: forward("haar1d", x=torch.zeros(2, 3, 17).int()), "dtype is Int, must be float32"),
    (lambda: backward("haar1d", grad_y=f(2, 5, 9)), "x.size(1) is 5, must be a multiple of 2"),
    (lambda: backward("haar1d", width=99), "the image is 1 x 99, must be that of bands of 1 x 9"),
    (lambda: forward("haar2d", x=f(2, 3, 9)), "x.dim() is 3, must be 4"),
    (lambda: forward("haar2d", height=4, width=4), "x is an image of 9 x 17, must be of 4 x 4"),
    (lambda: backward("haar2d", grad_y=f(2, 12, 5)), "x.dim() is 3, must be 4"),
    (lambda: backward("haar2d", height=90), "the image is 90 x 17, must be that of bands of 5 x"),
    (lambda: forward("ihaar1d", x=f(2, 6, 0), width=-1), "the image is 1 x -1, must be"),
    (lambda: forward("ihaar1d", width=40), "the image is 1 x 40, must be that of bands of 1 x 9"),
    (lambda: backward("ihaar1d", grad_y=f(2, 3, 5)), "x is an image of 1 x 5, must be of 1 x 17"),
    (lambda: forward("ihaar2d", x=f(2, 6, 5, 9)), "x.size(1) is 6, must be a multiple of 4"),
    (lambda: forward("ihaar2d", height=99), "the image is 99 x 17, must be that of bands of 5 x 9"),
    (lambda: backward("ihaar2d", grad_y=f(2, 3, 2, 2)), "x is an image of 2 x 2, must be of 9 x"),
    # wtconv: x (2, 3, 17) and (2, 3, 11, 7), kernel 5, two levels
    (lambda: forward("wtconv1d", x=f(3, 17)), "x.dim() is 2, must be 3"),
    (lambda: forward("wtconv1d", base_weight=f(3, 1, 0)), "base_weight.size(2) is 0, must be 1"),
    (lambda: forward("wtconv1d", base_bias=f(2)), "base_bias.numel() is 2, must be 3"),
    (lambda: forward("wtconv1d", wavelet_scales=[]), "len(wavelet_scales) is 0, must be 2"),
    (lambda: forward("wtconv2d", x=f(2, 4, 11, 7)), "base_weight.size(0) is 3, must be 4"),
    (lambda: forward("wtconv2d", base_weight=f(())), "base_weight.dim() is 0, must be 4"),
    (lambda: forward("wtconv2d", base_weight=f(3, 1, 3, 5)), "base_weight.size(2) is 3, must be 5"),
    (lambda: forward("wtconv2d", base_weight=f(3, 1, 3, 3)), "wavelet_weights[i].size(2) is 5,"),
    (lambda: forward("wtconv2d", base_scale=f(1)), "base_scale.numel() is 1, must be 3"),
    (lambda: forward("wtconv2d", base_scale=f(3).int()), "dtype is Int, must be float32"),
    (
        lambda: forward("wtconv2d", wavelet_weights=[f(12, 1, 5, 5)]),
        "len(wavelet_scales) is 2, mus",
    ),
    (
        lambda: forward("wtconv2d", wavelet_scales=[f(12), f(3)]),
        "wavelet_scales[i].numel() is 3, m",
    ),
    (lambda: backward("wtconv2d", grad_y=f(2, 3, 7, 11)), "grad_y.size(2) is 7, must be 11"),
    (lambda: backward("wtconv2d", grad_y=f(2, 3, 11, 7).half()), "grad_y.dtype is Half, must be F"),
    (lambda: backward("wtconv1d", grad_y=f(1)), "grad_y.dim() is 1, must be 3"),
    (lambda: backward("wtconv1d", base_bias=f(7)), "base_bias.numel() is 7, must be 3"),
    # causal_conv1d: x (2, 5, 19), weight (5, 4)
    (lambda: forward("causal_conv1d", x=f(5, 19)), "x.dim() is 2, must be 3"),
    (lambda: forward("causal_conv1d", weight=f(5)), "weight.dim() is 1, must be 2"),
    (lambda: forward("causal_conv1d", weight=f(5, 0)), "weight.size(1) is 0, must be 1"),
    (lambda: forward("causal_conv1d", weight=f(4, 4)), "weight.size(0) is 4, must be 5"),
    (lambda: forward("causal_conv1d", bias=f(4)), "bias.size(0) is 4, must be 5"),
    (lambda: forward("causal_conv1d", seq_idx=ints(0, 1)), "seq_idx.dim() is 1, must be 2"),
    (
        lambda: forward("causal_conv1d", seq_idx=torch.zeros(2, 19).short()),
        "expected scalar type",
    ),
    (lambda: forward("causal_conv1d", initial_states=f(2, 5, 4)), "initial_states.size(2) is 4, m"),
    (lambda: backward("causal_conv1d", grad_y=f(19, 5, 2)), "grad_y.size(0) is 19, must be 2"),
    (
        lambda: backward("causal_conv1d", grad_y=f(2, 5, 19).double()),
        "grad_y.dtype is Double, must",
    ),
    (
        lambda: backward("causal_conv1d", grad_final_states=f(2, 5, 9)),
        "grad_final_states.size(2) is 9, must be 3",
    ),
    # causal_conv1d_update: x (3, 5, 1), conv_state (3, 5, 3), weight (5, 4)
    (lambda: forward("causal_conv1d_update", x=f(3, 5)), "x.dim() is 2, must be 3"),
    (lambda: forward("causal_conv1d_update", bias=f(1)), "bias.size(0) is 1, must be 5"),
    (lambda: forward("causal_conv1d_update", weight=f(5, 0)), "weight.size(1) is 0, must be 1"),
    (lambda: forward("causal_conv1d_update", weight=f(5, 9)), "conv_state.size(2) is 3, must be 8"),
    (
        lambda: forward("causal_conv1d_update", weight=f(5, 1), conv_state=f(3, 5, 0)),
        "conv_state.size(2) is 0, must be 1",
    ),
    (
        lambda: forward("causal_conv1d_update", conv_state=f(2, 5, 3)),
        "conv_state has 2 states, must have 3",
    ),
    (
        lambda: forward("causal_conv1d_update", conv_state_indices=ints(0, 1)),
        "conv_state_indices.size(0) is 2, must be 3",
    ),
    (
        lambda: forward("causal_conv1d_update", conv_state_indices=ints(0, 1, 3)),
        "conv_state_indices has 3, must be below 3",
    ),
    (
        lambda: forward("causal_conv1d_update", conv_state_indices=f(3)),
        "expected scalar type",
    ),
    (
        lambda: forward("causal_conv1d_update", cache_seqlens=ints(1)),
        "cache_seqlens.size(0) is 1, must be 3",
    ),
    # causal_conv1d_varlen_states: x (13, 5), six bounds
    (lambda: forward("causal_conv1d_varlen_states", x=f(13)), "x.dim() is 1, must be 2"),
    (
        lambda: forward("causal_conv1d_varlen_states", cu_seqlens=ints()),
        "cu_seqlens.numel() is 0, must be at least 1",
    ),
    (
        lambda: forward("causal_conv1d_varlen_states", cu_seqlens=ints(0, 14)),
        "cu_seqlens[1] is 14, must be from 0 to 13",
    ),
    (
        lambda: forward("causal_conv1d_varlen_states", cu_seqlens=ints(0, 2**62)),
        "must be from 0 to 13",
    ),
    (
        lambda: forward("causal_conv1d_varlen_states", state_len=-1),
        "state_len is -1, must be >= 0",
    ),
    (
        lambda: backward("causal_conv1d_varlen_states", x=f(2, 5)),
        "must be from 0 to 2",
    ),
    (
        lambda: backward("causal_conv1d_varlen_states", grad_y=f(5, 3, 5)),
        "grad_y.size(1) is 3, must be 5",
    ),
    # the norms' x is (3, 4, 21)
    (lambda: forward("layer_norm", norm_dims=0), "norm_dims is 0, must be from 1 to 3"),
    (lambda: forward("layer_norm", norm_dims=4), "norm_dims is 4, must be from 1 to 3"),
    (lambda: forward("layer_norm", weight=f(20)), "weight.numel() is 20, must be 21"),
    (lambda: forward("layer_norm", bias=f(1)), "bias.numel() is 1, must be 21"),
    (lambda: forward("layer_norm", activation="mish"), "activation"),
    (lambda: forward("layer_norm", residual=f(21, 4, 3).mT), "residual.size(0) is 21, must be 3"),
    (lambda: backward("layer_norm", mean=f(1)), "mean.numel() is 1, must be 12, one a row"),
    (lambda: backward("layer_norm", mean=f(3, 4).half()), "mean.dtype is Half, must be Float"),
    (lambda: backward("layer_norm", norm_dims=9), "norm_dims is 9, must be from 1 to 3"),
    (lambda: forward("rms_norm", x=f(())), "norm_dims is 1, must be from 1 to 0"),
    (lambda: forward("rms_norm", residual=f(252)), "residual.dim() is 1, must be 3"),
    (lambda: backward("rms_norm", rstd=f(3, 3)), "rstd.numel() is 9, must be 12, one a row"),
    (lambda: backward("rms_norm", rstd=f(3, 4).double()), "rstd.dtype is Double, must be Float"),
    (lambda: backward("rms_norm", grad_y=f(4, 3, 21)), "grad_y.size(0) is 4, must be 3"),
    (lambda: backward("rms_norm", weight=f(22)), "weight.numel() is 22, must be 21"),
    (
        lambda: backward("rms_norm", {"residual": True}, grad_residual_out=f(252)),
        "grad_residual_out.dim() is 1, must be 3",
    ),
    # linear_act: x (3, 7, 13), weight (11, 13)
    (lambda: forward("linear_act", x=f(())), "x.dim() is 0, must be at least 1"),
    (lambda: forward("linear_act", x=f(3, 12)), "x.size(-1) is 12, must be 13"),
    (lambda: forward("linear_act", weight=f(13)), "weight.dim() is 1, must be 2"),
    (lambda: forward("linear_act", bias=f(1)), "bias.size(0) is 1, must be 11"),
    (lambda: forward("linear_act", activation="elu"), "unknown activation 'elu'"),
    (lambda: backward("linear_act", bias=f(99)), "bias.size(0) is 99, must be 11"),
    (lambda: backward("linear_act", grad_y=f(7, 3, 11)), "grad_y.size(0) is 7, must be 3"),
    (lambda: backward("linear_act", x=f(3, 7, 14)), "x.size(-1) is 14, must be 13"),
]


@pytest.mark.parametrize(("call", "text"), CALLS)
def test_kernel_refuses(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(text)):
        call()


def test_every_kernel_is_in_the_table() -> None:
    used = {
        constant
        for call, _ in CALLS
        for constant in call.__code__.co_consts
        if isinstance(constant, str)
    }
    assert set(OPS) <= used


@pytest.mark.parametrize("name", OPS)
def test_other_kinds_of_tensors(name: str) -> None:
    """A meta tensor among dense ones leads to the fake, a sparse one to torch's refusal."""
    op = OPS[name]
    for argument, value in zip(op.signature.names, op.sample(), strict=True):
        if not isinstance(value, Tensor):
            continue
        expected = op.fake(*op.sample())
        returns = as_tuple(forward(name, **{argument: value.to("meta")}))
        assert [r.shape for r in returns] == [r.shape for r in as_tuple(expected)]
        with pytest.raises(NotImplementedError, match="SparseCPU"):
            forward(name, **{argument: value.to_sparse()})


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "linear_act"])
def test_saved_tensors_of_any_stride(name: str) -> None:
    """What a caller hands back may be a view: the kernel follows its strides, not its pointer."""
    names = {"layer_norm": ("mean", "rstd"), "rms_norm": ("rstd",), "linear_act": ("pre",)}[name]
    op = OPS[name]
    torch.manual_seed(0)
    returns = as_tuple(op.kernels["cpu"].forward(*op.sample()))
    kept = dict(zip((r.name for r in op.signature.returns), returns, strict=True))
    strided: dict[str, Any] = {n: torch.stack([kept[n], kept[n] + 1], -1)[..., 0] for n in names}
    torch.manual_seed(0)
    expected = backward(name)
    torch.manual_seed(0)
    for value, wanted in zip(backward(name, **strided), expected, strict=True):
        assert torch.equal(value, wanted)
