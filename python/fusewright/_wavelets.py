"""Wavelets other than Haar: filter banks, and the wavelet convolution in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fusewright import _wtconv
from fusewright._op import Op
from fusewright.errors import fail

HAAR = ("db1", "haar")


def filters(wt_type: str, op: str = "wtconv") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Low and high pass of the analysis, then of the synthesis, in fp64, as correlations.

    Raises:
        ArgumentError: PyWavelets knows no discrete wavelet of that name.
        ModuleNotFoundError: PyWavelets is not installed; Haar needs none.
    """
    if wt_type in HAAR:
        low = torch.tensor([0.5, 0.5], dtype=torch.float64).sqrt()
        high = low * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return low, high, low, high
    try:
        import pywt
    except ModuleNotFoundError as error:
        text = f"wt_type {wt_type!r} needs PyWavelets: pip install 'fusewright[wavelets]'"
        raise ModuleNotFoundError(text) from error
    if wt_type not in pywt.wavelist(kind="discrete"):
        fail(op, "wt_type", repr(wt_type), "be a discrete wavelet of PyWavelets")
    bank = pywt.Wavelet(wt_type)

    def tensor(taps: list[float]) -> Tensor:
        return torch.tensor(taps, dtype=torch.float64)

    return (
        tensor(bank.dec_lo[::-1]),
        tensor(bank.dec_hi[::-1]),
        tensor(bank.rec_lo),
        tensor(bank.rec_hi),
    )


def filter_banks(
    wt_type: str, channels: int, dims: int, op: str = "wtconv"
) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis filters, (bands·channels, 1, n[, n]) in fp64.

    They are `wt_filter` and `iwt_filter` of the reference's checkpoints.
    """
    dec_lo, dec_hi, rec_lo, rec_hi = filters(wt_type, op)
    banks = []
    for low, high in ((dec_lo, dec_hi), (rec_lo, rec_hi)):
        if dims == 1:
            bank = torch.stack([low, high])
        else:  # LL, LH (high along H), HL (high along W), HH
            pairs = [(low, low), (high, low), (low, high), (high, high)]
            bank = torch.stack([torch.outer(h, w) for h, w in pairs])
        banks.append(bank.unsqueeze(1).repeat(channels, *[1] * (dims + 1)))
    return banks[0], banks[1]


def _transform(bank: Tensor, x: Tensor, dims: int) -> Tensor:
    x = F.pad(x, [p for size in reversed(x.shape[2:]) for p in (0, size % 2)])
    convolve = F.conv1d if dims == 1 else F.conv2d
    padding = bank.shape[-1] // 2 - 1
    bands = convolve(x, bank.to(x), stride=2, padding=padding, groups=x.shape[1])
    return bands.unflatten(1, (x.shape[1], 2**dims))


def _inverse(bank: Tensor, bands: Tensor, size: Sequence[int], dims: int) -> Tensor:
    convolve = F.conv_transpose1d if dims == 1 else F.conv_transpose2d
    padding = bank.shape[-1] // 2 - 1
    x = convolve(
        bands.flatten(1, 2), bank.to(bands), stride=2, padding=padding, groups=bands.shape[1]
    )
    return x[..., : size[0]] if dims == 1 else x[..., : size[0], : size[1]]


def wtconv(op: Op, wt_type: str, args: tuple[Any, ...], backend: str | None) -> Tensor:
    """wtconv1d or wtconv2d with any wavelet."""
    dims = 1 if op.name == "wtconv1d" else 2
    x = args[0]
    channels = x.shape[1] if isinstance(x, Tensor) and x.dim() > 1 else 1
    analysis, synthesis = filter_banks(wt_type, channels, dims, op.name)
    run = partial(
        _wtconv.reference,
        dims,
        transform=partial(_transform, analysis),
        inverse=partial(_inverse, synthesis),
    )
    reason = f"only Haar is fused, wt_type is {wt_type!r}"
    return op.run_plain(run, args, backend, reason)
