"""Two operators of a backend in Python, which exist for the tests of the core alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fusewright import ArgumentError, backends
from fusewright._op import OPS, Op
from fusewright.backends import Backend

TOY = "toy"


@dataclass
class Toy:
    """The two operators and how often their kernels ran."""

    blend: Op
    clip: Op
    calls: list[str]


def _blend_reference(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
) -> tuple[Tensor, Tensor | None]:
    """Y = tanh(mode) of x^power summed with weights, and the product with the bias."""
    y = x**power
    for i, w in enumerate(weights):
        y = y + (i + 1) * w * x
    if mode == "tanh":
        y = y.tanh()
    z = None
    if extra:
        z = y * 2 if bias is None else y * bias
    return y, z


def _blend(calls: list[str]) -> Op:
    def forward(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        calls.append("forward")
        y, z = _blend_reference(x, weights, bias, power, mode, extra)
        return y, x.new_empty(0) if z is None else z, y * y

    def backward(
        grad_y: Tensor | None,
        grad_z: Tensor | None,
        x: Tensor,
        weights: list[Tensor],
        bias: Tensor | None,
        square: Tensor,
        power: float,
        mode: str,
        needs: int,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        calls.append(f"backward {needs:03b}")
        y = _blend_reference(x, weights, None, power, mode, False)[0]
        torch.testing.assert_close(square, y * y)
        total = torch.zeros_like(x) if grad_y is None else grad_y
        if grad_z is not None:
            total = total + grad_z * (2 if bias is None else bias)
        if mode == "tanh":
            total = total * (1 - square)
        slope = power * x ** (power - 1) + sum((i + 1) * w for i, w in enumerate(weights))
        nothing = x.new_empty(0)
        dbias = nothing
        if needs & 4 and bias is not None:
            dbias = (
                torch.zeros_like(bias) if grad_z is None else (grad_z * y).sum_to_size(bias.shape)
            )
        return (
            total * slope if needs & 1 else nothing,
            [(i + 1) * total * x if needs & 2 else x.new_empty(0) for i in range(len(weights))],
            dbias,
        )

    def fake(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        return y, torch.empty_like(x) if extra else x.new_empty(0), torch.empty_like(x)

    def check(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> None:
        if mode not in ("none", "tanh"):
            raise ArgumentError(f"[toy_blend] mode is {mode!r}, must be 'none' or 'tanh'")

    def sample(levels: int = 2, bias: bool = True, mode: str = "tanh", extra: bool = True) -> Any:
        x = torch.rand(2, 3, dtype=torch.float64) + 0.5
        weights = [torch.randn_like(x) for _ in range(levels)]
        return x, weights, torch.randn(3, dtype=x.dtype) if bias else None, 2.0, mode, extra

    return _define(
        forward,
        backward,
        name="toy_blend",
        forward="(Tensor x, Tensor[] weights, Tensor? bias, float power, str mode, bool extra) -> "
        "(Tensor y, Tensor z, Tensor square)",
        backward="(Tensor? grad_y, Tensor? grad_z, Tensor x, Tensor[] weights, Tensor? bias, "
        "Tensor square, float power, str mode, int needs) -> "
        "(Tensor grad_x, Tensor[] grad_weights, Tensor grad_bias)",
        outputs=("y", "z"),
        reference=_blend_reference,
        fake=fake,
        check=check,
        supports={TOY: lambda x, *_: "x has more than 3 dimensions" if x.dim() > 3 else None},
        avoid={TOY: lambda x, *_: "small" if x.numel() == 1 else None},
        sample=sample,
        autocast="lower",
    )


def _clip(calls: list[str]) -> Op:
    def forward(x: Tensor, limit: int) -> Tensor:
        calls.append("clip")
        return x.clamp(-limit, limit)

    return _define(
        forward,
        None,
        name="toy_clip",
        forward="(Tensor x, int limit) -> Tensor y",
        backward=None,
        reference=lambda x, limit: x.clamp(-limit, limit),
        fake=lambda x, limit: torch.empty_like(x),
        supports={TOY: lambda *_: None},
        sample=lambda: (torch.randn(5), 1),
    )


def _define(forward_kernel: Callable[..., Any], backward_kernel: Any, **declaration: Any) -> Op:
    """Register kernels in Python, as an add-on would before its operators are declared."""
    library = backends.installed()[TOY].library
    kernels = {"": forward_kernel, "_backward": backward_kernel}
    for suffix, kernel in kernels.items():
        if kernel is not None:
            library.impl(declaration["name"] + suffix, kernel, "CPU")
    return Op(**declaration)


@pytest.fixture(scope="module")
def registered() -> Iterator[Toy]:
    installed = backends.installed()
    before = dict(installed)
    installed[TOY] = Backend(TOY, ("cpu",), "CPU", load=lambda: "toy.py", distribution="toys")
    library = installed[TOY].library
    calls: list[str] = []
    yield Toy(_blend(calls), _clip(calls), calls)
    library._destroy()
    installed.clear()
    installed.update(before)
    for name in ("toy_blend", "toy_clip"):
        del OPS[name]


@pytest.fixture
def toy(registered: Toy) -> Toy:
    registered.calls.clear()
    registered.blend._warned.clear()
    return registered
