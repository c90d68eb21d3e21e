"""The tests that wtconv1d and wtconv2d share; their test files import them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from check import check_op, check_values
from fusewright._op import Op

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def original(op: Op, args: tuple[Any, ...]) -> torch.Tensor:
    """The published formulation: strided convolutions with wavelet filters and their transposes."""
    x, base_weight, base_bias, base_scale, weights, scales = args
    dims, channels = x.dim() - 2, x.shape[1]
    conv = F.conv1d if dims == 1 else F.conv2d
    transposed = F.conv_transpose1d if dims == 1 else F.conv_transpose2d
    low = x.new_tensor([1.0, 1.0]) / 2**0.5
    high = x.new_tensor([1.0, -1.0]) / 2**0.5
    if dims == 1:
        filters = torch.stack([low, high])
    else:
        pairs = [(low, low), (high, low), (low, high), (high, high)]  # (along H, along W)
        filters = torch.stack([torch.outer(h, w) for h, w in pairs])
    filters = filters.unsqueeze(1).repeat(channels, *[1] * (dims + 1))
    pixels = (1,) * dims
    low_band, shapes, lows, highs = x, [], [], []
    for weight, scale in zip(weights, scales, strict=True):
        shapes.append(low_band.shape[2:])
        pad = [p for size in reversed(low_band.shape[2:]) for p in (0, size % 2)]
        bands = conv(F.pad(low_band, pad), filters, stride=2, groups=channels)
        low_band = bands[:, :: 2**dims]
        y = conv(bands, weight, padding="same", groups=bands.shape[1])
        y = (y * scale.reshape(1, -1, *pixels)).unflatten(1, (channels, 2**dims))
        lows.append(y[:, :, 0])
        highs.append(y[:, :, 1:])
    image: torch.Tensor | float = 0.0
    for shape, y_low, y_high in zip(reversed(shapes), reversed(lows), reversed(highs), strict=True):
        bands = torch.cat([(y_low + image).unsqueeze(2), y_high], 2).flatten(1, 2)
        image = transposed(bands, filters, stride=2, groups=channels)
        image = image[..., : shape[0]] if dims == 1 else image[..., : shape[0], : shape[1]]
    base = conv(x, base_weight, base_bias, padding="same", groups=channels)
    return base * base_scale.reshape(1, -1, *pixels) + image


class WTConvCases:
    """A subclass gives the operator and its shapes."""

    op: Op
    small: tuple[int, ...]
    shapes: list[tuple[int, ...]]

    def sample(self, shape: tuple[int, ...], **options: Any) -> tuple[Any, ...]:
        return self.op.sample(shape, **options)

    @pytest.mark.parametrize("levels", [0, 1, 3])
    def test_everything(self, backend: str, device: str, levels: int) -> None:
        args = self.sample(self.small, levels=levels, kernel=3, dtype=torch.float64, device=device)
        check_op(self.op, args, backend)

    @pytest.mark.parametrize("kernel", range(1, 10))
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
    def test_agrees_with_the_original(self, backend: str, device: str, kernel: int) -> None:
        options: dict[str, Any] = {"kernel": kernel, "dtype": torch.float64, "device": device}
        for shape in self.shapes:
            for levels in (0, 1, 2, 5):
                args = self.sample(shape, levels=levels, **options)
                expected = original(self.op, args)
                for name in (backend, "reference"):
                    y = self.op(*args, backend=name)
                    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("kernel", [2, 3, 5, 7])
    def test_dtypes(
        self, backend: str, device: str, dtype: torch.dtype, channels_last: bool, kernel: int
    ) -> None:
        for shape in self.shapes:
            args = self.sample(
                shape,
                dtype=dtype,
                device=device,
                channels_last=channels_last,
                kernel=kernel,
                bias=kernel != 3,
            )
            check_values(self.op, args, backend, few=16)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_parameters_of_another_dtype(
        self, backend: str, device: str, dtype: torch.dtype
    ) -> None:
        args = self.sample(self.small, dtype=dtype, weight_dtype=torch.float32, device=device)
        y = self.op(*args, backend=backend)
        assert y.dtype == dtype
        check_values(self.op, args, backend)

    def test_channels_last_is_kept(self, backend: str, device: str) -> None:
        args = self.sample(self.small, channels_last=True, device=device)
        assert self.op(*args, backend=backend).stride() == args[0].stride()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_strides(self, backend: str, device: str, dtype: torch.dtype) -> None:
        x, *rest = self.sample(self.small, dtype=dtype, device=device)
        wide = torch.randn(*(s + 3 for s in x.shape), dtype=dtype, device=device)
        inner = (slice(1, s + 1) for s in x.shape)
        views = [
            wide[tuple(inner)],
            x.repeat_interleave(2, -1)[..., ::2],
            x.transpose(0, -1).contiguous().transpose(0, -1),
            x[:1].expand(x.shape),
            x[..., :1].expand(x.shape),
        ]
        for view in views:
            check_values(self.op, (view, *rest), backend, few=16)

    def test_expanded_output_gradient(self, backend: str, device: str) -> None:
        args = self.sample(self.small, device=device)
        x = args[0].requires_grad_()
        self.op(*args, backend=backend).sum().backward()
        ours, x.grad = x.grad, None
        self.op(*args, backend="reference").sum().backward()
        torch.testing.assert_close(ours, x.grad)

    @pytest.mark.parametrize("scale", [1.5, -2.0])
    def test_scaled_bias_and_gradients_of_scaled_weights(
        self, backend: str, device: str, scale: float
    ) -> None:
        """Fresh modules have scales of 1 and 0.1, which hides a forgotten factor."""
        args = list(self.sample(self.small, dtype=torch.float64, device=device, levels=2))
        args[3] = torch.full_like(args[3], scale)
        args[5] = [torch.full_like(s, scale) for s in args[5]]
        check_values(self.op, args, backend)

    def test_frozen_parameters(self, backend: str, device: str) -> None:
        args = self.sample(self.small, device=device)
        args[4][1].requires_grad_()
        self.op(*args, backend=backend).square().sum().backward()
        ours, args[4][1].grad = args[4][1].grad, None
        self.op(*args, backend="reference").square().sum().backward()
        torch.testing.assert_close(ours, args[4][1].grad, rtol=1e-4, atol=1e-5)

    def test_empty(self, backend: str, device: str) -> None:
        for dim in (0, 1, 2):
            shape = tuple(0 if d == dim else s for d, s in enumerate(self.small))
            args = self.sample(shape, device=device)
            args[1].requires_grad_()
            y = self.op(*args, backend=backend)
            assert y.shape == shape
            y.sum().backward()
            assert not args[1].grad.any()

    def test_same_bits_for_any_number_of_threads(self, backend: str, device: str) -> None:
        args = self.sample((5, 37, *self.small[2:]), device=device)
        leaves = [args[0], args[1], args[2], args[3], *args[4], *args[5]]
        for leaf in leaves:
            leaf.requires_grad_()
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                y = self.op(*args, backend=backend)
                results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
