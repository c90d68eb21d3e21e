"""Wavelet convolution layers, with the parameters and arguments of every published version."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fusewright._check import check_integer, is_integer
from fusewright.errors import fail
from fusewright.ops.wtconv1d import wtconv1d
from fusewright.ops.wtconv2d import wtconv2d

# What the fast versions call the reference's parameters.
_ALIASES = [
    (r"base_weight$", "base_conv.weight"),
    (r"base_bias$", "base_conv.bias"),
    (r"base_scale$", "base_scale.weight"),
    (r"wt_weights\.(\d+)$", r"wavelet_convs.\1.weight"),
    (r"wt_scales\.(\d+)$", r"wavelet_scale.\1.weight"),
    (r"wavelet_scales\.(\d+)$", r"wavelet_scale.\1.weight"),
]


class _Scale(nn.Module):
    """A factor for every channel; a module, so that its key ends in `.weight`."""

    def __init__(self, shape: tuple[int, ...], value: float, options: dict[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, value, **options))


class _WTConv(nn.Module):
    dims: int
    conv: Callable[..., nn.Conv1d | nn.Conv2d]
    base_conv: nn.Conv1d | nn.Conv2d
    base_scale: _Scale
    wt_filter: Tensor
    iwt_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 1,
        bias: bool | int = True,
        wt_levels: int | bool | None = None,
        wt_type: str = "db1",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        bias, wt_levels = _positional_order(name, bias, wt_levels)
        if in_channels != out_channels:
            fail(name, "out_channels", out_channels, f"be in_channels, {in_channels}")
        for label, value, least in (
            ("in_channels", in_channels, 1),
            ("kernel_size", kernel_size, 1),
            ("stride", stride, 1),
            ("wt_levels", wt_levels, 0),
        ):
            check_integer(name, label, value, least)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = kernel_size, stride
        self.wt_levels, self.wt_type = wt_levels, wt_type
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        pixels, bands = (1,) * self.dims, 2**self.dims * in_channels

        def depthwise(channels: int, bias: bool) -> nn.Conv1d | nn.Conv2d:
            return type(self).conv(
                channels, channels, kernel_size, groups=channels, bias=bias, **options
            )

        self.base_conv = depthwise(in_channels, bias)
        self.base_scale = _Scale((1, in_channels, *pixels), 1.0, options)
        self.wavelet_convs = nn.ModuleList(depthwise(bands, False) for _ in range(wt_levels))
        self.wavelet_scale = nn.ModuleList(
            _Scale((1, bands, *pixels), 0.1, options) for _ in range(wt_levels)
        )
        # Constants that the reference keeps among its parameters; ours are part of its state_dict,
        # so that checkpoints go both ways.
        analysis, synthesis = _filters(name, wt_type, in_channels, self.dims)
        for key, bank in (("wt_filter", analysis), ("iwt_filter", synthesis)):
            self.register_buffer(key, bank.to(self.base_scale.weight))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, ...) to the same shape, or a strided one; see `fusewright.wtconv2d`."""
        return type(self).function(
            x,
            self.base_conv.weight,
            self.base_conv.bias,
            self.base_scale.weight,
            [conv.weight for conv in self.wavelet_convs],
            [scale.weight for scale in self.wavelet_scale],
            stride=self.stride,
            wt_type=self.wt_type,
        )

    function: Callable[..., Tensor]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Accept the keys of the fast versions; they hold no filters, which are constants."""
        for key in [k for k in state_dict if k.startswith(prefix)]:
            for pattern, replacement in _ALIASES:
                ours, found = re.subn(f"^{pattern}", replacement, key[len(prefix) :])
                if found:
                    state_dict[prefix + ours] = state_dict.pop(key)
        for key in ("wt_filter", "iwt_filter"):
            state_dict.setdefault(prefix + key, getattr(self, key))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"bias={self.base_conv.bias is not None}, wt_levels={self.wt_levels}, "
            f"wt_type={self.wt_type}"
        )


class WTConv2d(_WTConv):
    """Wavelet convolution over (N, C, H, W), as a drop-in for every published version.

    Args:
        in_channels, out_channels: C, the same.
        kernel_size: K >= 1.
        stride: subsampling of the result.
        bias: of the base convolution.
        wt_levels: how many levels, >= 0; None is 1.
        wt_type: 'db1' is fused; any other name of PyWavelets runs as plain PyTorch.
        device, dtype: of the parameters.

    The fast versions take `bias` and `wt_levels` in the other order; by position they are told
    apart by their types, a bool and an int. The state_dict is the reference's; those of the fast
    versions load too.

    Raises:
        ArgumentError: a value is none of the above, or the order can't be told.

    Source: as `fusewright.wtconv2d`.
    """

    dims = 2
    conv = nn.Conv2d
    function = staticmethod(wtconv2d)


class WTConv1d(_WTConv):
    """Wavelet convolution over (N, C, L); arguments and state_dict as `WTConv2d`.

    With a stride, the result is averaged over `stride` elements.

    Raises:
        ArgumentError: as `WTConv2d`.
    """

    dims = 1
    conv = nn.Conv1d
    function = staticmethod(wtconv1d)


def _positional_order(name: str, bias: Any, wt_levels: Any) -> tuple[bool, int]:
    """bias and wt_levels from either order, told apart by type; wt_levels is None if not given."""
    if isinstance(bias, bool):
        if isinstance(wt_levels, bool):
            fail(name, "wt_levels", wt_levels, f"be an integer >= 0, as bias is {bias}")
        return bias, 1 if wt_levels is None else wt_levels
    if not is_integer(bias):
        fail(name, "bias", repr(bias), "be a bool")
    if isinstance(wt_levels, bool):
        return wt_levels, bias
    # `WTConv2d(c, c, 5, 1, 3)` of the fast versions; a 0 could be either a level or False
    if wt_levels is None and bias > 0:
        return True, bias
    levels = 1 if wt_levels is None else wt_levels
    must = (
        "be a bool and an integer, in any order: "
        f"the reference reads bias={bool(bias)}, wt_levels={levels}, "
        f"the fast versions wt_levels={bias}, bias={bool(levels)}"
    )
    fail(name, "bias, wt_levels", f"{bias}, {levels}", must)


def _filters(name: str, wt_type: str, channels: int, dims: int) -> tuple[Tensor, Tensor]:
    """The reference's filter banks, (bands·C, 1, n[, n])."""
    from fusewright import _wavelets

    return _wavelets.filter_banks(wt_type, channels, dims, name)
