"""Small arguments that reach every branch of every kernel, by operator: options of `Op.sample`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_F32, _F16, _BF16 = torch.float32, torch.float16, torch.bfloat16
DTYPES = [_F32, _F16, _BF16]

Options = dict[str, Any]


def _image(rank: int) -> list[Options]:
    sizes: list[tuple[int, ...]] = (
        [(17,), (1,), (600,)] if rank == 1 else [(9, 7), (1, 1), (2, 1), (5, 70)]
    )
    return [{"shape": (2, 3, *size)} for size in sizes]


_NORM: list[Options] = [
    {"shape": (3, 2, 5), "residual": True},
    {"shape": (33, 300), "activation": "gelu"},
    {"shape": (5, 67), "affine": False, "activation": "silu"},
    {"shape": (3, 4, 5), "norm_dims": 2, "activation": "gelu_tanh", "residual": True},
    {"shape": (70, 9), "weight_dtype": _F16, "residual": True, "residual_dtype": _BF16},
    {"shape": (4, 129), "weight_dtype": _BF16, "residual": True, "residual_dtype": _F32},
    {"shape": (2, 8211), "residual": True, "activation": "relu"},  # more than registers hold
    {"shape": (2, 1), "affine": False},
]

# The paths of a wavelet convolution: whole planes, several together, tiles, and no threadgroup
# memory; with deeper levels in a dispatch of their own.
_WT1: list[Options] = [
    {"shape": (2, 3, 17)},
    {"shape": (1, 2, 1), "levels": 3, "kernel": 3},
    {"shape": (37, 2, 9), "levels": 0, "bias": False, "channels_last": True},
    {"shape": (3, 2, 40), "levels": 5, "kernel": 4, "weight_dtype": _F32},
    {"shape": (3, 2, 14), "levels": 9, "kernel": 2},
    {"shape": (1, 2, 5001), "levels": 2, "kernel": 3},
    {"shape": (1, 2, 4500), "levels": 0, "kernel": 6},
    {"shape": (1, 1, 100), "levels": 1, "kernel": 5001},
]
_WT2: list[Options] = [
    {"shape": (2, 3, 11, 7), "channels_last": True},
    {"shape": (1, 2, 1, 1), "levels": 3, "kernel": 3},
    {"shape": (5, 3, 7, 7), "levels": 2, "kernel": 3},
    {"shape": (2, 2, 14, 14), "levels": 3, "kernel": 2, "weight_dtype": _F16},
    {"shape": (2, 2, 6, 5), "levels": 0, "kernel": 4, "bias": False},
    {"shape": (2, 1, 28, 3), "levels": 5, "kernel": 5, "weight_dtype": _BF16},
    {"shape": (3, 2, 5, 6), "levels": 9, "kernel": 3},
    {"shape": (1, 1, 90, 101), "levels": 1, "kernel": 3},
    {"shape": (1, 1, 131, 70), "levels": 3, "kernel": 4},
    {"shape": (1, 1, 90, 95), "levels": 0, "kernel": 3},
    {"shape": (1, 1, 9, 35), "levels": 2, "kernel": 41},
    {"shape": (1, 1, 5, 6), "levels": 0, "kernel": 95},
]

_CONV: list[Options] = [
    {},
    {"shape": (2, 3, 9), "seq_idx": True, "initial_states": True, "return_final_states": True},
    {"shape": (2, 40, 9), "channel_last": True, "width": 3, "silu": False, "seq_idx": True},
    {"shape": (2, 3, 2), "width": 5, "initial_states": True, "return_final_states": True},
    {"shape": (1, 3, 300), "width": 9, "bias": False, "weight_dtype": _F16},
    {"shape": (1, 2, 3000), "width": 4, "weight_dtype": _BF16},
    {"shape": (2, 3, 0), "initial_states": True, "return_final_states": True},
    {"shape": (2, 3, 7), "width": 1, "silu": False, "return_final_states": True},
    {
        "shape": (3, 33, 5),
        "channel_last": True,
        "seq_idx": True,
        "initial_states": True,
        "return_final_states": True,
    },
]

CASES: dict[str, list[Options]] = {
    "haar1d": _image(1),
    "ihaar1d": _image(1),
    "haar2d": _image(2),
    "ihaar2d": _image(2),
    "wtconv1d": _WT1,
    "wtconv2d": _WT2,
    "causal_conv1d": _CONV,
    "causal_conv1d_update": [
        {"shape": (4, 5, 1)},
        {"shape": (4, 70, 3), "length": 7, "states": 6, "weight_dtype": _F16},
        {"shape": (3, 5, 12), "length": 5, "circular": True, "states": 4, "weight_dtype": _BF16},
        {"shape": (3, 5, 2), "length": 9, "width": 6, "silu": False, "circular": True},
        {"shape": (3, 5, 2), "length": 1, "width": 1},
    ],
    "causal_conv1d_varlen_states": [
        {},
        {"state_len": 70, "lengths": (5, 80, 0)},
        {"lengths": ()},
        {"state_len": 0},
    ],
    "layer_norm": _NORM,
    "rms_norm": [
        *_NORM,
        {"shape": (9, 40), "round_first": True, "activation": "silu"},
        {"shape": (9, 40), "round_first": True, "residual": True, "residual_dtype": _F32},
        {"shape": (9, 40), "weight_offset": 1.0, "round_first": True},
        {"shape": (9, 40), "weight_offset": 1.0, "activation": "gelu", "weight_dtype": _F32},
    ],
}


def views() -> list[Callable[[Tensor], Tensor]]:
    """Layouts: functions of a tensor's values, or of some of them."""

    def sliced(t: Tensor) -> Tensor:
        wide = torch.randn(*(s + 3 for s in t.shape)).to(t.dtype)
        view = wide[tuple(slice(2, s + 2) for s in t.shape)]
        return view.copy_(t)

    return [
        sliced,
        lambda t: t.repeat_interleave(2, -1)[..., ::2],
        lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
        lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
        lambda t: t[:1].expand(t.shape),
        lambda t: t[..., :1].expand(t.shape),
    ]


def check_rounding(rms_norm: Any, dtype: torch.dtype, backend: str) -> None:
    """Stores of a 16-bit dtype, of which the sum with a residual of zeros is nothing but one: every
    pattern of 16 bits as the upper half, with ties, their neighbours, infinity and NaN."""
    upper = torch.arange(2**16, dtype=torch.int64) << 16
    bits = torch.cat([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    bits = torch.where(bits >= 2**31, bits - 2**32, bits)
    values = bits.int().view(torch.float32).view(-1, 512)
    residual = torch.zeros_like(values, dtype=dtype)
    _, total = rms_norm(values, None, residual, 1, 1e-6, "none", 0.0, False, backend=backend)
    expected = (values + 0.0).to(dtype)
    finite = ~expected.isnan()
    assert torch.equal(total.isnan(), ~finite)
    assert torch.equal(total[finite].view(torch.int16), expected[finite].view(torch.int16))
