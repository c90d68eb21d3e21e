"""layer_norm and rms_norm on the emulated device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from emulator.arguments import ACTIVATIONS, DTYPES, code, make
from emulator.device import Device


def _rows(t: Tensor | None, norm_dims: int) -> Tensor | None:
    """The tensor as (rows, columns); a copy only where its strides have no such view."""
    if t is None:
        return None
    columns = math.prod(t.shape[t.dim() - norm_dims :])
    rows = math.prod(t.shape[: t.dim() - norm_dims])
    return t.reshape(rows, columns)


def _strides(name: str, t: Tensor | None) -> dict[str, int]:
    row, step = (0, 0) if t is None else t.stride()
    return {f"{name}_row": row, f"{name}_step": step}


def forward(
    device: Device,
    op: str,
    x: Tensor,
    parameters: list[Tensor | None],
    residual: Tensor | None,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float = 0.0,
    round_first: bool = False,
) -> tuple[Tensor, ...]:
    """y, residual_out, then mean and rstd, or rstd alone."""
    rows, summand = _rows(x, norm_dims), _rows(residual, norm_dims)
    assert rows is not None
    dense = [None if p is None else p.contiguous() for p in parameters]
    y = x.new_empty(x.shape)
    total = x.new_empty(0) if residual is None else residual.new_empty(x.shape)
    statistics = [
        x.new_empty(x.shape[: x.dim() - norm_dims], dtype=torch.float32) for _ in parameters
    ]
    args = make(
        "FwNormArgs",
        rows=rows.shape[0],
        columns=rows.shape[1],
        **_strides("x", rows),
        **_strides("residual", summand),
        eps=eps,
        weight_offset=weight_offset,
        activation=ACTIVATIONS.index(activation),
        round_first=round_first,
        weight_dtype=code(parameters[0]),
        bias_dtype=code(parameters[1] if len(parameters) > 1 else None),
        residual_dtype=code(residual),
    )
    out = None if residual is None else total
    device.run(
        f"{op}_forward_{DTYPES[x.dtype]}",
        "norm_dispatch",
        [rows, *dense, summand, y, out, *statistics],
        args,
    )
    return y, total, *statistics


def backward(
    device: Device,
    op: str,
    grad_y: Tensor | None,
    grad_total: Tensor | None,
    x: Tensor,
    parameters: list[Tensor | None],
    statistics: list[Tensor],
    norm_dims: int,
    activation: str,
    needs: int,
    weight_offset: float = 0.0,
    round_first: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of x and of the parameters."""
    rows, dy, dtotal = (_rows(t, norm_dims) for t in (x, grad_y, grad_total))
    assert rows is not None
    dense = [None if p is None else p.contiguous() for p in parameters]
    statistics = [s.contiguous() for s in statistics]
    n, columns = rows.shape
    grad_x = torch.empty_like(x) if needs & 1 else x.new_empty(0)
    target = torch.empty_like(rows)
    grads: list[Tensor | None] = [
        x.new_empty(columns, dtype=p.dtype) if p is not None and needs >> bit & 1 else None
        for bit, p in enumerate(parameters, 1)
    ]
    parts = device.plan("norm_parts", n)
    args = make(
        "FwNormArgs",
        rows=n,
        columns=columns,
        **_strides("x", rows),
        **_strides("grad_y", dy),
        **_strides("grad_total", dtotal),
        **_strides("grad_x", target),
        parts=parts,
        weight_offset=weight_offset,
        activation=ACTIVATIONS.index(activation),
        round_first=round_first,
        weight_dtype=code(parameters[0]),
        bias_dtype=code(parameters[1] if len(parameters) > 1 else None),
        residual_dtype=-1,
        grad_y_dtype=code(dy),
        grad_total_dtype=code(dtotal),
        grad_weight_dtype=code(grads[0]),
        grad_bias_dtype=code(grads[1] if len(grads) > 1 else None),
    )
    dtype = DTYPES[x.dtype]
    if needs & 1:
        device.run(
            f"{op}_backward_input_{dtype}",
            "norm_dispatch",
            [dy, dtotal, rows, *dense, *statistics, target],
            args,
        )
        grad_x.copy_(target.view(x.shape))
    if any(g is not None for g in grads):
        partial = x.new_empty(parts, 2, columns, dtype=torch.float32)
        device.run(
            f"{op}_backward_parameters_{dtype}",
            "norm_backward_parameters_dispatch",
            [dy, rows, *dense, *statistics, partial],
            args,
        )
        sum_kernel = f"{op}_backward_sum_float"
        device.run(sum_kernel, "norm_backward_sum_dispatch", [partial, *grads], args)
    return (
        grad_x,
        *(
            x.new_empty(0) if g is None or p is None else g.view(p.shape)
            for g, p in zip(grads, parameters, strict=True)
        ),
    )


def layer_norm(device: Device, x: Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
    return forward(device, "layer_norm", x, [weight, bias], *rest)


def layer_norm_backward(
    device: Device,
    grad_y: Tensor | None,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    norm_dims: int,
    eps: float,
    activation: str,
    needs: int,
) -> Any:
    parameters, statistics = [weight, bias], [mean, rstd]
    return backward(
        device, "layer_norm", grad_y, grad_total, x, parameters, statistics,
        norm_dims, activation, needs,
    )  # fmt: skip


def rms_norm(device: Device, x: Tensor, weight: Tensor | None, *rest: Any) -> Any:
    return forward(device, "rms_norm", x, [weight], *rest)


def rms_norm_backward(
    device: Device,
    grad_y: Tensor | None,
    grad_total: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    norm_dims: int,
    eps: float,
    activation: str,
    weight_offset: float,
    round_first: bool,
    needs: int,
) -> Any:
    return backward(
        device, "rms_norm", grad_y, grad_total, x, [weight], [rstd],
        norm_dims, activation, needs, weight_offset, round_first,
    )  # fmt: skip
