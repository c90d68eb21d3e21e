"""causal_conv1d and its kin on the emulated device."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from emulator.arguments import DTYPES, NONE, code, make
from emulator.device import Device

_NO_STRIDES = (0, 0, 0)


def _strides(t: Tensor | None) -> tuple[int, ...]:
    return _NO_STRIDES if t is None else t.stride()


def _channels_inside(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.stride(2) != 1


def _shape(x: Tensor, weight: Tensor) -> dict[str, int]:
    batch, channels, length = x.shape
    return {
        "batch": batch,
        "channels": channels,
        "length": length,
        "width": weight.shape[1],
        "channels_inside": _channels_inside(x),
    }


def causal_conv1d(
    device: Device,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    return_final_states: bool,
) -> tuple[Tensor, Tensor]:
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = torch.empty_like(x)
    states = (*x.shape[:2], weight.shape[1] - 1) if return_final_states else (0,)
    final = x.new_empty(states)
    args = make(
        "FwCausalArgs",
        **_shape(x, weight),
        x=x.stride(),
        y=y.stride(),
        seq_idx=(0, 0) if seq_idx is None else seq_idx.stride(),
        initial_states=_strides(initial_states),
        final_states=final.stride() if return_final_states else _NO_STRIDES,
        silu=silu,
        weight_dtype=code(weight),
        bias_dtype=code(bias),
        seq_idx_dtype=code(seq_idx),
        initial_dtype=code(initial_states),
        final_states_dtype=code(x) if return_final_states else NONE,
    )
    tensors = [x, weight, bias, seq_idx, initial_states, y, final if return_final_states else None]
    kernel = f"causal_conv1d_forward_{DTYPES[x.dtype]}"
    device.run(kernel, "causal_forward_dispatch", tensors, args)
    return y, final


def causal_conv1d_backward(
    device: Device,
    grad_y: Tensor | None,
    grad_final_states: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seq_idx: Tensor | None,
    initial_states: Tensor | None,
    silu: bool,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    given = (x, weight, bias, initial_states)
    wanted = [t is not None and bool(needs >> bit & 1) for bit, t in enumerate(given)]
    grads = [
        torch.empty_like(t) if t is not None and want else None
        for t, want in zip(given, wanted, strict=True)
    ]
    grad_x, grad_weight, grad_bias, grad_initial = grads
    dense_weight = weight.contiguous()
    dense_bias = None if bias is None else bias.contiguous()
    sums = [None if g is None else torch.empty_like(g).contiguous() for g in grads[1:3]]
    parts = device.plan("causal_parts", x.shape[0], x.shape[2])
    args = make(
        "FwCausalArgs",
        **_shape(x, weight),
        x=x.stride(),
        y=_strides(grad_y),
        grad_x=_strides(grad_x),
        seq_idx=(0, 0) if seq_idx is None else seq_idx.stride(),
        initial_states=_strides(initial_states),
        final_states=_strides(grad_final_states),
        grad_initial_states=_strides(grad_initial),
        parts=parts,
        silu=silu,
        weight_dtype=code(weight),
        bias_dtype=code(bias),
        seq_idx_dtype=code(seq_idx),
        initial_dtype=code(initial_states),
        final_states_dtype=code(grad_final_states),
        has_grad_y=grad_y is not None,
        needs_grad_x=grad_x is not None,
        grad_initial_dtype=code(grad_initial),
        grad_weight_dtype=code(grad_weight),
        grad_bias_dtype=code(grad_bias),
    )
    dtype = DTYPES[x.dtype]
    inputs = [x, dense_weight, dense_bias, seq_idx, initial_states]
    if grad_x is not None or grad_initial is not None:
        device.run(
            f"causal_conv1d_backward_input_{dtype}",
            "causal_backward_input_dispatch",
            [grad_y, grad_final_states, *inputs, grad_x, grad_initial],
            args,
        )
    if grad_weight is not None or grad_bias is not None:
        partial = x.new_empty(parts, weight.shape[1] + 1, x.shape[1], dtype=torch.float32)
        device.run(
            f"causal_conv1d_backward_parameters_{dtype}",
            "causal_backward_parameters_dispatch",
            [grad_y, *inputs, partial],
            args,
        )
        device.run(
            "causal_conv1d_backward_sum_float",
            "causal_backward_sum_dispatch",
            [partial, *sums],
            args,
        )
        for grad, dense in zip((grad_weight, grad_bias), sums, strict=True):
            if grad is not None and dense is not None:
                grad.copy_(dense)
    none = x.new_empty(0)
    return tuple(none.clone() if g is None else g for g in grads)  # type: ignore[return-value]


def causal_conv1d_update(
    device: Device,
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cache_seqlens: Tensor | None,
    conv_state_indices: Tensor | None,
    silu: bool,
) -> Tensor:
    batch, channels, steps = x.shape
    integers = [None if t is None else t.contiguous() for t in (cache_seqlens, conv_state_indices)]
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = torch.empty_like(x)
    args = make(
        "FwCausalUpdateArgs",
        batch=batch,
        channels=channels,
        steps=steps,
        width=weight.shape[1],
        states=conv_state.shape[0],
        length=conv_state.shape[2],
        x=x.stride(),
        y=y.stride(),
        conv_state=conv_state.stride(),
        silu=silu,
        weight_dtype=code(weight),
        bias_dtype=code(bias),
        conv_state_dtype=code(conv_state),
        seqlens_dtype=code(integers[0]),
        indices_dtype=code(integers[1]),
    )
    device.run(
        f"causal_conv1d_update_forward_{DTYPES[x.dtype]}",
        "causal_update_dispatch",
        [x, conv_state, weight, bias, *integers, y],
        args,
    )
    return y


def _varlen_args(x: Tensor, y: Tensor, cu_seqlens: Tensor, state_len: int) -> ctypes.Structure:
    return make(
        "FwVarlenArgs",
        total=x.shape[0],
        channels=x.shape[1],
        sequences=cu_seqlens.shape[0] - 1,
        state_len=state_len,
        x=x.stride(),
        y=y.stride(),
        bounds_dtype=code(cu_seqlens),
    )


def causal_conv1d_varlen_states(
    device: Device, x: Tensor, cu_seqlens: Tensor, state_len: int
) -> Tensor:
    cu_seqlens = cu_seqlens.contiguous()
    y = x.new_empty(cu_seqlens.shape[0] - 1, x.shape[1], state_len)
    args = _varlen_args(x, y, cu_seqlens, state_len)
    kernel = f"causal_conv1d_varlen_states_forward_{DTYPES[x.dtype]}"
    device.run(kernel, "varlen_forward_dispatch", [x, cu_seqlens, y], args)
    return y


def causal_conv1d_varlen_states_backward(
    device: Device, grad_y: Tensor, x: Tensor, cu_seqlens: Tensor, state_len: int, needs: int
) -> Tensor:
    cu_seqlens = cu_seqlens.contiguous()
    grad_x = torch.empty_like(x)
    args = _varlen_args(grad_x, grad_y, cu_seqlens, state_len)
    kernel = f"causal_conv1d_varlen_states_backward_{DTYPES[x.dtype]}"
    device.run(kernel, "varlen_backward_dispatch", [grad_y, cu_seqlens, grad_x], args)
    return grad_x
