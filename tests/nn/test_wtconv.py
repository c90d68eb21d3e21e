# mypy: disable-error-code="union-attr,misc,list-item,call-overload,operator"
from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fusewright
from fusewright import ArgumentError, UnsupportedError
from fusewright.nn import WTConv1d, WTConv2d


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Fresh scales are all alike and hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def keys(levels: int, style: str, bias: bool = True) -> list[str]:
    """The parameters of a published version."""
    names = {
        "reference": ("base_conv.weight", "base_conv.bias", "base_scale.weight"),
        "fast": ("base_weight", "base_bias", "base_scale"),
        "metal": ("base_conv.weight", "base_conv.bias", "base_scale"),
    }[style]
    weight = {"fast": "wt_weights.{}"}.get(style, "wavelet_convs.{}.weight")
    scale = {"fast": "wt_scales.{}", "metal": "wavelet_scales.{}"}.get(
        style, "wavelet_scale.{}.weight"
    )
    base = [n for n in names if bias or "bias" not in n]
    return base + [t.format(i) for i in range(levels) for t in (weight, scale)]


def test_keys_and_shapes_are_the_reference_ones() -> None:
    state = WTConv2d(6, 6, wt_levels=2).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {
        "wt_filter": (24, 1, 2, 2),
        "iwt_filter": (24, 1, 2, 2),
        "base_conv.weight": (6, 1, 5, 5),
        "base_conv.bias": (6,),
        "base_scale.weight": (1, 6, 1, 1),
        "wavelet_convs.0.weight": (24, 1, 5, 5),
        "wavelet_convs.1.weight": (24, 1, 5, 5),
        "wavelet_scale.0.weight": (1, 24, 1, 1),
        "wavelet_scale.1.weight": (1, 24, 1, 1),
    }
    state = WTConv1d(6, 6, kernel_size=3).state_dict()
    assert tuple(state["wt_filter"].shape) == (12, 1, 2)
    assert tuple(state["wavelet_scale.0.weight"].shape) == (1, 12, 1)


def test_initial_values() -> None:
    layer = WTConv2d(4, 4, wt_levels=2)
    assert (layer.base_scale.weight == 1).all()
    assert all((s.weight == 0.1).all() for s in layer.wavelet_scale)
    bound = 1 / 5  # conv's own: 1 / sqrt(fan in of 25)
    assert layer.base_conv.weight.abs().max() <= bound
    assert not any(p.requires_grad for p in layer.buffers())


@pytest.mark.parametrize("style", ["reference", "fast", "metal"])
@pytest.mark.parametrize("cls", [WTConv1d, WTConv2d])
@pytest.mark.parametrize("prefix", ["", "stages.0.conv_dw."])
def test_loads_every_published_key_set(cls: Any, style: str, prefix: str) -> None:
    source = randomised(cls(3, 3, wt_levels=3))
    values = source.state_dict()
    published = {
        prefix + theirs: values[ours]
        for ours, theirs in zip(keys(3, "reference"), keys(3, style), strict=True)
    }
    if style == "reference":
        published.update({prefix + k: values[k] for k in ("wt_filter", "iwt_filter")})
    target = cls(3, 3, wt_levels=3)
    holder: torch.nn.Module = target
    for name in reversed(prefix.split(".")[:-1]):
        outer = torch.nn.Module()
        outer.add_module(name, holder)
        holder = outer
    before = dict(published)
    holder.load_state_dict(published, strict=True)
    assert published.keys() == before.keys(), "the caller's dict is left as it was"
    for key, value in target.state_dict().items():
        assert torch.equal(value, values[key]), key


def test_missing_and_unknown_keys_are_still_errors() -> None:
    layer = WTConv2d(3, 3)
    state = layer.state_dict()
    del state["base_conv.bias"]
    with pytest.raises(RuntimeError, match="base_conv.bias"):
        layer.load_state_dict(state)
    with pytest.raises(RuntimeError, match="surprise"):
        layer.load_state_dict({**layer.state_dict(), "surprise": torch.zeros(1)})


@pytest.mark.parametrize("cls", [WTConv1d, WTConv2d])
@pytest.mark.parametrize(
    ("args", "bias", "levels"),
    [
        ((5, 1), True, 1),
        ((5, 1, False, 3), False, 3),  # the reference's order
        ((5, 1, True), True, 1),
        ((5, 1, 3, False), False, 3),  # the fast versions'
        ((5, 1, 3, True), True, 3),
        ((5, 1, 4), True, 4),
        ((5, 1, 1), True, 1),  # either order says the same
        ((5, 1, True, 0), True, 0),
        ((5, 1, 0, True), True, 0),
        ((5, 1, False), False, 1),
    ],
)
def test_both_positional_orders(cls: Any, args: tuple[Any, ...], bias: bool, levels: int) -> None:
    layer = cls(2, 2, *args)
    assert (layer.base_conv.bias is not None) == bias
    assert layer.wt_levels == levels


@pytest.mark.parametrize("cls", [WTConv1d, WTConv2d])
def test_two_integers_have_two_readings(cls: Any) -> None:
    """Also where the second is what the default would be: it was given."""
    text = (
        r"bias, wt_levels is 3, 1, must be a bool and an integer, in any order: "
        r"the reference reads bias=True, wt_levels=1, the fast versions wt_levels=3, bias=True"
    )
    with pytest.raises(ArgumentError, match=text):
        cls(2, 2, 5, 1, 3, 1)
    with pytest.raises(ArgumentError, match="bias=False, wt_levels=1, the fast versions wt_levels"):
        cls(2, 2, 5, 1, 0)
    with pytest.raises(ArgumentError, match=text):
        cls(2, 2, bias=3, wt_levels=1)
    assert cls(2, 2, wt_levels=None).wt_levels == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((2, 3), {}, "out_channels is 3, must be in_channels, 2"),
        ((2, 2, 5, 1, 2, 3), {}, "bias, wt_levels is 2, 3, must be a bool and an int"),
        ((2, 2, 5, 1, 0), {}, "bias, wt_levels is 0, 1"),
        (
            (2, 2, 5, 1, True, False),
            {},
            "wt_levels is False, must be an integer >= 0, as bias is True",
        ),
        ((2, 2), {"kernel_size": 0}, "kernel_size is 0, must be an integer >= 1"),
        ((2, 2), {"stride": 0}, "stride is 0"),
        ((2, 2), {"wt_levels": -1}, "wt_levels is -1, must be an integer >= 0"),
        ((0, 0), {}, "in_channels is 0"),
        ((2, 2), {"wt_type": "morlet"}, "wt_type is 'morlet'"),
    ],
)
def test_bad_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        WTConv2d(*args, **kwargs)


def test_forward_is_the_operator() -> None:
    layer = randomised(WTConv2d(3, 3, wt_levels=2))
    x = torch.randn(2, 3, 9, 7)
    y = fusewright.wtconv2d(
        x,
        layer.base_conv.weight,
        layer.base_conv.bias,
        layer.base_scale.weight,
        [c.weight for c in layer.wavelet_convs],
        [s.weight for s in layer.wavelet_scale],
    )
    assert torch.equal(layer(x), y)
    assert layer(torch.randn(2, 3, 9, 7)).shape == x.shape
    assert WTConv2d(3, 3, stride=2)(x).shape == (2, 3, 5, 4)
    assert WTConv1d(3, 3, stride=2)(x[..., 0]).shape == (2, 3, 4)


@pytest.mark.parametrize("cls", [WTConv1d, WTConv2d])
def test_autocast_mixes_dtypes(cls: Any) -> None:
    layer = randomised(cls(3, 3, wt_levels=2))
    x = torch.randn((2, 3, 9, 7) if cls is WTConv2d else (2, 3, 9)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("cls", [WTConv1d, WTConv2d])
@pytest.mark.parametrize("wt_type", ["db2", "sym4", "bior2.2", "coif1"])
def test_other_wavelets(cls: Any, wt_type: str) -> None:
    """Against the published formulation, on even and odd sizes, with gradients."""
    layer = randomised(cls(2, 2, wt_levels=2, wt_type=wt_type, dtype=torch.float64))
    dims = 2 if cls is WTConv2d else 1
    x = torch.randn(1, 2, *(13, 16)[:dims], dtype=torch.float64, requires_grad=True)
    assert torch.allclose(layer(x), _published(layer, x, dims))
    assert torch.autograd.gradcheck(layer, x)
    plain = fusewright.explain(
        f"wtconv{dims}d",
        x,
        layer.base_conv.weight,
        layer.base_conv.bias,
        layer.base_scale.weight,
        [c.weight for c in layer.wavelet_convs],
        [s.weight for s in layer.wavelet_scale],
        wt_type=wt_type,
    )
    assert plain.backend == "reference"
    assert "only Haar is fused" in str(plain)
    with fusewright.use_backend("cpu"), pytest.raises(UnsupportedError, match="only Haar"):
        layer(x)


def _published(layer: Any, x: torch.Tensor, dims: int) -> torch.Tensor:
    conv = F.conv1d if dims == 1 else F.conv2d
    transposed = F.conv_transpose1d if dims == 1 else F.conv_transpose2d
    channels, pad = x.shape[1], layer.wt_filter.shape[-1] // 2 - 1
    low, shapes, bands = x, [], []
    for i in range(layer.wt_levels):
        shapes.append(low.shape[2:])
        low = F.pad(low, [p for size in reversed(low.shape[2:]) for p in (0, size % 2)])
        raw = conv(low, layer.wt_filter, stride=2, groups=channels, padding=pad)
        low = raw[:, :: 2**dims]
        weight = layer.wavelet_convs[i].weight
        y = conv(raw, weight, padding="same", groups=raw.shape[1])
        bands.append(y * layer.wavelet_scale[i].weight)
    image = torch.zeros(())
    for shape, y in zip(reversed(shapes), reversed(bands), strict=True):
        split = y.unflatten(1, (channels, 2**dims)).unbind(2)
        y = torch.stack([split[0] + image, *split[1:]], 2).flatten(1, 2)
        image = transposed(y, layer.iwt_filter, stride=2, groups=channels, padding=pad)
        image = image[..., : shape[0]] if dims == 1 else image[..., : shape[0], : shape[1]]
    base = conv(x, layer.base_conv.weight, layer.base_conv.bias, padding="same", groups=channels)
    return base * layer.base_scale.weight + image


def test_filters_are_the_wavelet_ones() -> None:
    pywt = pytest.importorskip("pywt")
    from fusewright import _wavelets

    bank = pywt.Wavelet("db1")
    for ours, theirs in zip(
        _wavelets.filters("db1"),
        (bank.dec_lo[::-1], bank.dec_hi[::-1], bank.rec_lo, bank.rec_hi),
        strict=True,
    ):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))
