"""Wrong calls: each raises the documented error, which says what was wrong and what is allowed.

`CALLS` goes over every public function, module and model; `KERNEL_CALLS` goes past the Python
layer, where a wrong shape would reach memory that is not the tensor's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fusewright as fw
from fusewright import ArgumentError, UnsupportedError, ops

# Not to be type-checked: the calls are wrong.
nn: Any = fw.nn
models: Any = fw.models
NAN = float("nan")


def f(*shape: Any, **options: Any) -> Tensor:
    return torch.randn(*shape, **options)


def ints(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def conv(**changes: Any) -> Any:
    """causal_conv1d on x (2, 3, 8) and weight (3, 4)."""
    return fw.causal_conv1d(**{"x": f(2, 3, 8), "weight": f(3, 4), **changes})


def update(**changes: Any) -> Any:
    """causal_conv1d_update on x (2, 3), conv_state (2, 3, 3) and weight (3, 4)."""
    default = {"x": f(2, 3), "conv_state": f(2, 3, 3), "weight": f(3, 4)}
    return fw.causal_conv1d_update(**{**default, **changes})


def wave(dims: int, **changes: Any) -> Any:
    """wtconv1d or wtconv2d on two channels, kernel 3, one level."""
    size, one, bands = (3,) * dims, (1,) * dims, 2 * 2**dims
    default = {
        "x": f(1, 2, *(6,) * dims),
        "base_weight": f(2, 1, *size),
        "base_bias": f(2),
        "base_scale": f(1, 2, *one),
        "wavelet_weights": [f(bands, 1, *size)],
        "wavelet_scales": [f(1, bands, *one)],
    }
    return getattr(fw, f"wtconv{dims}d")(**{**default, **changes})


def pico(**options: Any) -> Any:
    return models.wtconvnext("pico", **options)


def backend(name: Any) -> Any:
    with fw.use_backend(name):
        return fw.rms_norm(f(4))


# The operator or module that the message names, the call, and what the message says.
Call = tuple[str, Callable[[], Any], str]
CALLS: list[Call] = [
    # haar1d, ihaar1d
    ("haar1d", lambda: fw.haar1d(f(3, 8)), "x.dim() is 2, must be 3: (N, C, L)"),
    ("haar1d", lambda: fw.haar1d(ints(1, 2, 8)), "x.dtype is torch.int64, must be a floating"),
    ("haar1d", lambda: fw.haar1d([1.0]), "x is [1.0] (list), must be Tensor"),
    ("ihaar1d", lambda: fw.ihaar1d(f(4, 8)), "coefficients.dim() is 2, must be 3"),
    ("ihaar1d", lambda: fw.ihaar1d(None), "coefficients is None (NoneType), must be Tensor"),
    ("ihaar1d", lambda: fw.ihaar1d(f(1, 3, 8)), "coefficients.shape[1] is 3, must be a multiple"),
    ("ihaar1d", lambda: fw.ihaar1d(f(1, 2, 8), 14), "size is 14, must be 15 or 16"),
    ("ihaar1d", lambda: fw.ihaar1d(f(1, 2, 0), -1), "size is -1, must be an integer >= 0"),
    ("ihaar1d", lambda: fw.ihaar1d(f(1, 2, 8), 15.0), "size is 15.0, must be an integer"),
    ("ihaar1d", lambda: fw.ihaar1d(ints(1, 2, 8)), "coefficients.dtype is torch.int64, must be"),
    # haar2d, ihaar2d
    ("haar2d", lambda: fw.haar2d(f(2, 3, 8)), "x.dim() is 3, must be 4: (N, C, H, W)"),
    ("haar2d", lambda: fw.haar2d(f(1, 1, 4, 4).bool()), "x.dtype is torch.bool, must be"),
    ("haar2d", lambda: fw.haar2d(3), "x is 3 (int), must be Tensor"),
    ("ihaar2d", lambda: fw.ihaar2d(f(4, 8, 8)), "coefficients.dim() is 3, must be 4"),
    ("ihaar2d", lambda: fw.ihaar2d("x"), "coefficients is 'x' (str), must be Tensor"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 6, 4, 4)), "coefficients.shape[1] is 6, must be a mult"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 4, 4, 4), (8, 6)), "size is 6, must be 7 or 8"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 4, 4, 4), (8,)), "size is (8,), must be two integers"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 4, 4, 4), 8), "size is 8, must be two integers"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 4, 4, 4), (8, None)), "size is (8, None), must be two"),
    ("ihaar2d", lambda: fw.ihaar2d(f(1, 4, 0, 4), (-1, 8)), "size is -1, must be 0"),
    # wtconv1d, wtconv2d
    ("wtconv1d", lambda: wave(1, x=f(2, 6)), "x.dim() is 2, must be 3"),
    ("wtconv1d", lambda: wave(1, x=f(1, 3, 6)), "base_weight.shape is (2, 1, 3), must be (3, 1,"),
    ("wtconv1d", lambda: wave(1, stride=0), "stride is 0, must be an integer >= 1"),
    ("wtconv1d", lambda: wave(1, wt_type="morlet"), "wt_type is 'morlet', must be a discrete"),
    ("wtconv1d", lambda: wave(1, wavelet_scales=[]), "len(wavelet_scales) is 0, must be 1"),
    ("wtconv1d", lambda: wave(1, base_bias=f(3)), "base_bias.shape is (3,), must be (2,)"),
    ("wtconv2d", lambda: wave(2, x=ints(1, 2, 6, 6)), "x.dtype is torch.int64, must be a float"),
    ("wtconv2d", lambda: wave(2, x=None), "x is None (NoneType), must be Tensor"),
    ("wtconv2d", lambda: wave(2, base_weight=f(2, 1, 3, 5)), "base_weight.shape is (2, 1, 3, 5),"),
    ("wtconv2d", lambda: wave(2, base_weight=f(2, 1, 0, 0)), "must be (2, 1, K, K) with K >= 1"),
    ("wtconv2d", lambda: wave(2, base_weight=f(())), "base_weight.shape is (), must be (2, 1, K"),
    ("wtconv2d", lambda: wave(2, base_weight=ints(2, 1, 3, 3)), "base_weight.dtype is torch.int64"),
    ("wtconv2d", lambda: wave(2, base_scale=f(3)), "base_scale.shape is (3,), must be (1, 2, 1, 1"),
    ("wtconv2d", lambda: wave(2, base_scale=f(2, 1)), "base_scale.shape is (2, 1), must be (1, 2,"),
    ("wtconv2d", lambda: wave(2, base_scale=2.0), "base_scale is 2.0 (float), must be Tensor"),
    ("wtconv2d", lambda: wave(2, wavelet_weights=None), "wavelet_weights is None, must be a list"),
    (
        "wtconv2d",
        lambda: wave(2, wavelet_weights=f(1, 8, 1, 3, 3)),
        "wavelet_weights is a Tensor, must be a list of Tensors",
    ),
    ("wtconv2d", lambda: wave(2, wavelet_weights=[1]), "wavelet_weights is [1] (list), must be"),
    (
        "wtconv2d",
        lambda: wave(2, wavelet_weights=[f(8, 1, 5, 5)]),
        "wavelet_weights[0].shape is (8, 1, 5, 5), must be (8, 1, 3, 3)",
    ),
    (
        "wtconv2d",
        lambda: wave(2, wavelet_scales=[f(2)]),
        "wavelet_scales[0].shape is (2,), must be (1, 8, 1, 1) or (8,)",
    ),
    (
        "wtconv2d",
        lambda: wave(2, wavelet_scales=[ints(8)]),
        "wavelet_scales[0].dtype is torch.int64, must be a floating-point type",
    ),
    (
        "wtconv2d",
        lambda: wave(2, wavelet_weights=[meta(8, 1, 3, 3)]),
        "wavelet_weights.device is meta, must be cpu as x",
    ),
    ("wtconv2d", lambda: wave(2, stride=2.0), "stride is 2.0, must be an integer >= 1"),
    ("wtconv2d", lambda: wave(2, stride=True), "stride is True, must be an integer >= 1"),
    ("wtconv2d", lambda: wave(2, wt_type=3), "wt_type is 3, must be a discrete wavelet"),
    ("wtconv2d", lambda: wave(2, wt_type="db2", x=f(2, 6, 6)), "x.dim() is 3, must be 4"),
    ("wtconv2d", lambda: wave(2, wt_type="db2", wavelet_scales=None), "wavelet_scales is None,"),
    # causal_conv1d
    ("causal_conv1d", lambda: conv(x=f(3, 8)), "x.dim() is 2, must be 3"),
    ("causal_conv1d", lambda: conv(x=ints(2, 3, 8)), "x.dtype is torch.int64, must be a floating"),
    ("causal_conv1d", lambda: conv(x=meta(2, 3, 8)), "weight.device is cpu, must be meta as x"),
    ("causal_conv1d", lambda: conv(weight=f(4, 4)), "weight.shape is (4, 4), must be (3, width)"),
    ("causal_conv1d", lambda: conv(weight=f(3, 1, 4)), "weight.shape is (3, 1, 4), must be (3, w"),
    ("causal_conv1d", lambda: conv(weight=f(3, 0)), "weight.shape is (3, 0), must be (3, width)"),
    ("causal_conv1d", lambda: conv(weight=ints(3, 4)), "weight.dtype is torch.int64, must be a fl"),
    ("causal_conv1d", lambda: conv(bias=f(3, 1)), "bias.shape is (3, 1), must be (3,)"),
    ("causal_conv1d", lambda: conv(bias=ints(3)), "bias.dtype is torch.int64, must be a floating"),
    ("causal_conv1d", lambda: conv(bias=True), "bias is True (bool), must be Tensor?"),
    ("causal_conv1d", lambda: conv(seq_idx=ints(2, 7)), "seq_idx.shape is (2, 7), must be (2, 8)"),
    ("causal_conv1d", lambda: conv(seq_idx=f(2, 8)), "seq_idx.dtype is torch.float32, must be int"),
    (
        "causal_conv1d",
        lambda: conv(initial_states=f(2, 3, 4)),
        "initial_states.shape is (2, 3, 4), must be (2, 3, 3)",
    ),
    (
        "causal_conv1d",
        lambda: conv(initial_states=ints(2, 3, 3)),
        "initial_states.dtype is torch.int64, must be a floating-point type",
    ),
    ("causal_conv1d", lambda: conv(activation="relu"), "activation is 'relu', must be None, 'silu"),
    ("causal_conv1d", lambda: conv(activation=["silu"]), "activation is ['silu'], must be None,"),
    ("causal_conv1d", lambda: conv(return_final_states=1), "return_final_states is 1 (int), must"),
    (
        "causal_conv1d",
        lambda: conv(final_states_out=f(2, 3, 4)),
        "final_states_out.shape is (2, 3, 4), must be (2, 3, 3)",
    ),
    ("causal_conv1d", lambda: conv(final_states_out=True), "final_states_out is True (bool), must"),
    (
        "causal_conv1d",
        lambda: conv(final_states_out=ints(2, 3, 3)),
        "final_states_out.dtype is torch.int64, must be a floating-point type",
    ),
    (
        "causal_conv1d",
        lambda: conv(final_states_out=meta(2, 3, 3)),
        "final_states_out.device is meta, must be cpu as x",
    ),
    # causal_conv1d_update
    ("causal_conv1d_update", lambda: update(x=f(3)), "x.dim() is 1, must be 2, (batch, channels)"),
    ("causal_conv1d_update", lambda: update(x=None), "x is None (NoneType), must be Tensor"),
    ("causal_conv1d_update", lambda: update(x=ints(2, 3)), "x.dtype is torch.int64, must be a fl"),
    (
        "causal_conv1d_update",
        lambda: update(conv_state=f(2, 3, 2)),
        "conv_state.shape is (2, 3, 2), must be (states, 3, length) with length >= 3",
    ),
    (
        "causal_conv1d_update",
        lambda: update(conv_state=f(4, 3, 3)),
        "conv_state.shape[0] is 4, must be 2 as x.shape[0]",
    ),
    (
        "causal_conv1d_update",
        lambda: update(conv_state=f(2, 3, 0), weight=f(3, 1)),
        "conv_state.shape[2] is 0, must be at least 1",
    ),
    (
        "causal_conv1d_update",
        lambda: update(conv_state=f(1, 3, 3).expand(2, 3, 3)),
        "conv_state.stride() is (0, 3, 1), must reach every element once: it is written to",
    ),
    (
        "causal_conv1d_update",
        lambda: update(conv_state=ints(2, 3, 3)),
        "conv_state.dtype is torch.int64, must be a floating-point type",
    ),
    ("causal_conv1d_update", lambda: update(weight=f(2, 4)), "weight.shape is (2, 4), must be (3,"),
    ("causal_conv1d_update", lambda: update(bias=f(4)), "bias.shape is (4,), must be (3,)"),
    ("causal_conv1d_update", lambda: update(activation=1), "activation is 1, must be None, 'silu'"),
    (
        "causal_conv1d_update",
        lambda: update(cache_seqlens=ints(3)),
        "cache_seqlens.shape is (3,), must be (2,)",
    ),
    (
        "causal_conv1d_update",
        lambda: update(cache_seqlens=f(2)),
        "cache_seqlens.dtype is torch.float32, must be int32 or int64",
    ),
    (
        "causal_conv1d_update",
        lambda: update(conv_state_indices=ints(2).short()),
        "conv_state_indices.dtype is torch.int16, must be int32 or int64",
    ),
    # causal_conv1d_varlen_states
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(2, 5, 3), ints(2), 2),
        "x.dim() is 3, must be 2",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(ints(5, 3), ints(2), 2),
        "x.dtype is torch.int64, must be a floating-point type",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(5, 3), ints(0), 2),
        "cu_seqlens.shape is (0,), must be (sequences + 1,)",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(5, 3), [0, 5], 2),
        "cu_seqlens is [0, 5] (list), must be Tensor",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(5, 3), f(2), 2),
        "cu_seqlens.dtype is torch.float32, must be int32 or int64",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(5, 3), ints(2), -1),
        "state_len is -1, must be >= 0",
    ),
    (
        "causal_conv1d_varlen_states",
        lambda: fw.causal_conv1d_varlen_states(f(5, 3), ints(2), 2.0),
        "state_len is 2.0 (float), must be int",
    ),
    # layer_norm
    ("layer_norm", lambda: fw.layer_norm(f(())), "x.dim() is 0, must be at least 1"),
    ("layer_norm", lambda: fw.layer_norm(ints(2, 4)), "x.dtype is torch.int64, must be a floating"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), f(5)), "weight.shape is (5,), must be (4,)"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), f(4), f(1)), "bias.shape is (1,), must be (4,)"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), meta(4)), "weight.device is meta, must be cpu"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), eps=-1e-6), "eps is -1e-06, must be >= 0"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), eps=None), "eps is None (NoneType), must be fl"),
    ("layer_norm", lambda: fw.layer_norm(f(2, 4), activation="mish"), "activation is 'mish', must"),
    (
        "layer_norm",
        lambda: fw.layer_norm(f(2, 4), normalized_shape=3),
        "normalized_shape is (3,), must be trailing dimensions of x, (2, 4)",
    ),
    (
        "layer_norm",
        lambda: fw.layer_norm(f(2, 4), normalized_shape=(1, 2, 4)),
        "normalized_shape is (1, 2, 4), must be trailing",
    ),
    (
        "layer_norm",
        lambda: fw.layer_norm(f(2, 4), normalized_shape=4.0),
        "normalized_shape is 4.0, must be trailing",
    ),
    ("layer_norm", lambda: fw.layer_norm(None, normalized_shape=4), "x is None (NoneType), must"),
    (
        "layer_norm",
        lambda: fw.layer_norm(f(2, 4), residual=f(4)),
        "residual.shape is (4,), must be (2, 4)",
    ),
    # rms_norm
    ("rms_norm", lambda: fw.rms_norm("x"), "x is 'x' (str), must be Tensor"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), f(2, 4)), "weight.shape is (2, 4), must be (4,)"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), ints(4)), "weight.dtype is torch.int64, must be a"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), eps=NAN), "eps is nan, must be >= 0"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), eps="1"), "eps is '1' (str), must be float"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), casting="bf16"), "casting is 'bf16', must be 'fp32'"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), casting=[]), "casting is [], must be 'fp32' or"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), activation=2), "activation is 2, must be None or on"),
    ("rms_norm", lambda: fw.rms_norm(f(2, 4), weight_offset=None), "weight_offset is None (None"),
    (
        "rms_norm",
        lambda: fw.rms_norm(f(2, 4), residual=ints(2, 4)),
        "residual.dtype is torch.int64, must be a floating-point type",
    ),
    (
        "rms_norm",
        lambda: fw.rms_norm(f(2, 4), normalized_shape=()),
        "normalized_shape is (), must be trailing",
    ),
    # linear_act
    ("linear_act", lambda: fw.linear_act(f(()), f(3, 4)), "x.dim() is 0, must be at least 1"),
    ("linear_act", lambda: fw.linear_act(f(2, 5), f(3, 4)), "x.shape[-1] is 5, must be 4"),
    ("linear_act", lambda: fw.linear_act(f(2, 4), f(4)), "weight.dim() is 1, must be 2"),
    ("linear_act", lambda: fw.linear_act(f(2, 4), f(3, 4), f(4)), "bias.shape is (4,), must be (3"),
    ("linear_act", lambda: fw.linear_act(ints(2, 4), f(3, 4)), "x.dtype is torch.int64, must be"),
    ("linear_act", lambda: fw.linear_act(f(2, 4), ints(3, 4)), "weight.dtype is torch.int64, must"),
    ("linear_act", lambda: fw.linear_act(f(2, 4), meta(3, 4)), "weight.device is meta, must be cp"),
    ("linear_act", lambda: fw.linear_act(f(2, 4), None), "weight is None (NoneType), must be Tens"),
    (
        "linear_act",
        lambda: fw.linear_act(f(2, 4), f(3, 4), activation="swish"),
        "activation is 'swish', must be None or one of",
    ),
    (
        "linear_act",
        lambda: fw.linear_act(f(2, 4), f(3, 4), activation=3),
        "activation is 3 (int), must be str",
    ),
    # backends
    ("backend", lambda: fw.rms_norm(f(4), backend="gpu"), "name is 'gpu', must be one of"),
    ("backend", lambda: fw.rms_norm(f(4), backend=3), "name is 3, must be one of reference, "),
    ("backend", lambda: backend("CPU"), "name is 'CPU', must be one of"),
    # nn
    ("WTConv1d", lambda: nn.WTConv1d(2, 4), "out_channels is 4, must be in_channels, 2"),
    ("WTConv1d", lambda: nn.WTConv1d(2, 2, 2.0), "kernel_size is 2.0, must be an integer >= 1"),
    ("WTConv1d", lambda: nn.WTConv1d(2, 2, bias="no"), "bias is 'no', must be a bool"),
    ("WTConv2d", lambda: nn.WTConv2d(2.0, 2.0), "in_channels is 2.0, must be an integer >= 1"),
    ("WTConv2d", lambda: nn.WTConv2d(2, 2, 5, (1, 1)), "stride is (1, 1), must be an integer"),
    ("WTConv2d", lambda: nn.WTConv2d(2, 2, wt_levels=-1), "wt_levels is -1, must be an integer"),
    ("WTConv2d", lambda: nn.WTConv2d(2, 2, wt_levels=1.5), "wt_levels is 1.5, must be an integer"),
    ("WTConv2d", lambda: nn.WTConv2d(2, 2, 5, 1, 3, 1), "bias, wt_levels is 3, 1, must be"),
    ("WTConv2d", lambda: nn.WTConv2d(2, 2, wt_type="db99"), "wt_type is 'db99', must be a discret"),
    ("wtconv2d", lambda: nn.WTConv2d(2, 2)(f(1, 3, 4, 4)), "base_weight.shape is (2, 1, 5, 5)"),
    ("CausalConv1d", lambda: nn.CausalConv1d(0), "channels is 0, must be an integer >= 1"),
    ("CausalConv1d", lambda: nn.CausalConv1d(3, 0), "kernel_size is 0, must be an integer >= 1"),
    ("CausalConv1d", lambda: nn.CausalConv1d(3, "4"), "kernel_size is '4', must be an integer"),
    ("CausalConv1d", lambda: nn.CausalConv1d(3, activation="elu"), "activation is 'elu', must be"),
    ("CausalConv1d", lambda: nn.CausalConv1d(3).new_state(-1), "batch is -1, must be an integer"),
    ("causal_conv1d", lambda: nn.CausalConv1d(3)(f(2, 8, 3)), "weight.shape is (3, 4), must be (8"),
    (
        "causal_conv1d_update",
        lambda: nn.CausalConv1d(3).step(f(2, 3), f(2, 3, 1)),
        "conv_state.shape is (2, 3, 1), must be (states, 3, length) with length >= 3",
    ),
    ("LayerNorm", lambda: nn.LayerNorm(4, activation="elu"), "activation is 'elu', must be None"),
    ("LayerNorm", lambda: nn.LayerNorm(4, eps=-1.0), "eps is -1.0, must be a number >= 0"),
    ("LayerNorm", lambda: nn.LayerNorm(-4), "normalized_shape is -4, must be"),
    ("LayerNorm", lambda: nn.LayerNorm(()), "normalized_shape is (), must be"),
    ("layer_norm", lambda: nn.LayerNorm(4)(f(2, 5)), "normalized_shape is (4,), must be trailing"),
    ("RMSNorm", lambda: nn.RMSNorm("4"), "normalized_shape is '4', must be"),
    ("RMSNorm", lambda: nn.RMSNorm(4, eps=NAN), "eps is nan, must be a number >= 0"),
    ("RMSNorm", lambda: nn.RMSNorm(4, casting="gemma"), "casting is 'gemma', must be 'fp32'"),
    ("RMSNorm", lambda: nn.RMSNorm(4, weight_offset="1"), "weight_offset is '1', must be a number"),
    ("rms_norm", lambda: nn.RMSNorm(4)(ints(2, 4)), "x.dtype is torch.int64, must be a floating"),
    ("rms_norm", lambda: nn.RMSNorm(4)(None), "x is None (NoneType), must be Tensor"),
    ("LinearAct", lambda: nn.LinearAct(-3, 3), "in_features is -3, must be an integer >= 0"),
    ("LinearAct", lambda: nn.LinearAct(3, 2.5), "out_features is 2.5, must be an integer >= 0"),
    ("LinearAct", lambda: nn.LinearAct(3, 3, activation="swish"), "activation is 'swish', must be"),
    ("linear_act", lambda: nn.LinearAct(3, 3)(f(2, 4)), "x.shape[-1] is 4, must be 3"),
    # models
    ("wtconvnext", lambda: models.wtconvnext("huge"), "variant is 'huge', must be one of pico"),
    ("wtconvnext", lambda: models.wtconvnext(["tiny"]), "variant is ['tiny'], must be one of pico"),
    ("WTConvNeXt", lambda: pico(num_classes=-1), "num_classes is -1, must be an integer >= 1"),
    ("WTConvNeXt", lambda: pico(in_chans=0), "in_chans is 0, must be an integer >= 1"),
    ("WTConvNeXt", lambda: pico(drop_rate=2.0), "drop_rate is 2.0, must be from 0 to 1"),
    ("WTConvNeXt", lambda: pico(drop_path_rate=1.0), "drop_path_rate is 1.0, must be >= 0 and < 1"),
    ("WTConvNeXt", lambda: pico()(f(1, 1, 64, 64)), "x.shape is (1, 1, 64, 64), must be (N, 3,"),
    ("WTConvNeXt", lambda: pico()(f(1, 3, 2, 64)), "x.shape is (1, 3, 2, 64), must be (N, 3,"),
]


@pytest.mark.parametrize(("name", "call", "text"), CALLS, ids=[f"{n}: {t}" for n, _, t in CALLS])
def test_wrong_call(name: str, call: Callable[[], Any], text: str) -> None:
    """The message names the argument, what it was and what it must be."""
    with pytest.raises(ArgumentError, match=re.escape(f"[{name}] ")) as caught:
        call()
    assert text in str(caught.value)
    assert re.fullmatch(r"\[\w+\] .+ is .+, must .+", str(caught.value))


def test_every_function_and_module_is_in_the_table() -> None:
    assert len(CALLS) >= 60
    assert {*ops.names(), *nn.__all__, "WTConvNeXt", "wtconvnext"} <= {name for name, *_ in CALLS}


def test_no_gradient() -> None:
    with pytest.raises(UnsupportedError, match=r"\[causal_conv1d_update\] has no gradient: call"):
        update(x=f(2, 3, requires_grad=True))


@pytest.mark.parametrize("chosen", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda b: update(conv_state_indices=torch.tensor([0, 2]), backend=b),
            "conv_state_indices has 2, must be below 2",
        ),
        (
            lambda b: fw.causal_conv1d_varlen_states(f(5, 3), torch.tensor([0, 6]), 2, backend=b),
            "cu_seqlens[1] is 6, must be from 0 to 5",
        ),
        (
            lambda b: fw.causal_conv1d_varlen_states(f(5, 3), torch.tensor([-1, 5]), 2, backend=b),
            "cu_seqlens[0] is -1, must be from 0 to 5",
        ),
        (
            lambda b: fw.causal_conv1d_varlen_states(
                f(5, 3), torch.tensor([0, 4, 2]), 2, backend=b
            ),
            "cu_seqlens[2] is 2, must be from 4 to 5",
        ),
    ],
)
def test_wrong_numbers_in_tensors(chosen: str, call: Callable[[str], Any], text: str) -> None:
    """What only the data shows, the kernel and the reference tell in the same words."""
    with pytest.raises(RuntimeError, match=re.escape(text)):
        call(chosen)
