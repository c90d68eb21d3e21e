"""tools/export_wtconv_coreml.py: what it saves is the convolutions of the layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from fusewright import nn

pytest.importorskip("coremltools", reason="coremltools has no package for this platform")

import typer

import export_wtconv_coreml as tool
from coreml.program import Program


def command() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(tool.main)
    return app


def export(package: Path, *options: object) -> Program:
    result = CliRunner().invoke(command(), ["--output", str(package), *map(str, options)])
    assert result.exit_code == 0, result.output
    return Program(package)


def refused(*options: object) -> str:
    result = CliRunner().invoke(command(), [str(o) for o in options])
    assert result.exit_code == 2
    return " ".join(result.output.replace("│", " ").split())


def expected(layer: nn.WTConv2d, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every branch of the layer in fp64, as the operator's documentation defines it."""

    def branch(x: Tensor, conv: torch.nn.Conv2d, scale: Tensor) -> Tensor:
        k = layer.kernel_size
        padded = F.pad(x, ((k - 1) // 2, k // 2) * 2)
        return scale * F.conv2d(padded, conv.weight, conv.bias, groups=conv.groups)

    layer = layer.double()
    wavelets = zip(layer.wavelet_convs, layer.wavelet_scale, strict=True)
    branches: dict[str, tuple[str, Any, Any]] = {
        "base": ("x", layer.base_conv, layer.base_scale),
        **{f"filtered{i}": (f"bands{i}", *modules) for i, modules in enumerate(wavelets, 1)},
    }
    return {
        name: branch(inputs[source].double(), conv, scale.weight).float()
        for name, (source, conv, scale) in branches.items()
    }


def check(program: Program, layer: nn.WTConv2d) -> None:
    inputs = {name: torch.randn(shape) for name, shape in program.inputs.items()}
    outputs = program(inputs)
    wanted = expected(layer, inputs)
    assert outputs.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "levels", "kernel", "bias"),
    [
        (8, 8, 1, 5, True),
        (7, 13, 3, 5, True),
        (9, 4, 4, 3, False),
        (6, 5, 2, 4, True),  # an even kernel: 'same' is not symmetric
        (5, 3, 0, 1, True),
    ],
)
def test_random_layer(
    tmp_path: Path, height: int, width: int, levels: int, kernel: int, bias: bool
) -> None:
    options = ["--channels", 3, "--height", height, "--width", width, "--levels", levels]
    options += ["--kernel-size", kernel, "--bias" if bias else "--no-bias", "--seed", 7]
    program = export(tmp_path / "a.mlpackage", *options)
    sizes = [(height, width)]
    for _ in range(levels):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    assert program.inputs == {"x": (1, 3, *sizes[0])} | {
        f"bands{i}": (1, 12, *size) for i, size in enumerate(sizes[1:], 1)
    }
    assert program.types == {65568}  # float32
    check(program, tool.make_layer(3, levels, kernel, bias, 7, None, ""))


def test_replaces_a_package(tmp_path: Path) -> None:
    package, options = tmp_path / "a.mlpackage", ["--channels", 2, "--levels", 1]
    export(package, *options, "--height", 4, "--width", 4)
    program = export(package, *options, "--height", 5, "--width", 6)
    assert program.inputs["x"] == (1, 2, 5, 6)


def reference_keys(key: str) -> str:
    return key


def triton_keys(key: str) -> str:
    for ours, theirs in (
        ("base_conv.", "base_"),
        ("base_scale.weight", "base_scale"),
        ("wavelet_convs.", "wt_weights."),
        ("wavelet_scale.", "wt_scales."),
    ):
        if key.startswith(ours):
            key = theirs + key.removeprefix(ours)
            return key.removesuffix(".weight") if key.startswith("wt_") else key
    return key


def metal_keys(key: str) -> str:
    if key.startswith("base_scale"):
        return "base_scale"
    if key.startswith("wavelet_scale."):
        return key.replace("wavelet_scale.", "wavelet_scales.").removesuffix(".weight")
    return key


@pytest.mark.parametrize(
    ("rename", "suffix"),
    [(reference_keys, ".pt"), (triton_keys, ".safetensors"), (metal_keys, ".pt")],
)
def test_checkpoint(tmp_path: Path, rename: Callable[[str], str], suffix: str) -> None:
    layer = tool.make_layer(4, 2, 5, True, 3, None, "")
    state = {
        f"stem.conv.{rename(key)}": value.detach().clone()
        for key, value in layer.state_dict().items()
        if "filter" not in key
    }
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({**state, "head.weight": torch.zeros(3)}, file)
    else:
        import safetensors.torch

        safetensors.torch.save_file(state, file)
    options = ["--channels", 4, "--height", 6, "--width", 7, "--levels", 2, "--seed", 1]
    options += ["--checkpoint", file, "--prefix", "stem.conv."]
    check(export(tmp_path / "a.mlpackage", *options), layer)


def test_bad_options(tmp_path: Path) -> None:
    assert "--output: is a.onnx, must end in .mlpackage" in refused("--output", "a.onnx")
    assert "--levels" in refused("--levels", -1)
    assert "--height" in refused("--height", 0)
    other = tmp_path / "other.mlpackage"
    other.mkdir()
    assert "is no Core ML package" in refused("--output", other)
    file = tmp_path / "a.pt"
    torch.save({"a.base_conv.weight": torch.zeros(4, 1, 5, 5)}, file)
    text = refused("--checkpoint", file, "--prefix", "b.")
    assert "--prefix: is 'b.', must begin a key of" in text
    assert "such as a.base_conv.weight" in text
    text = refused("--checkpoint", file, "--prefix", "a.", "--channels", 4)
    assert "Missing key(s)" in text
    assert "base_conv.bias" in text
    for broken in (tmp_path / "broken.pt", tmp_path / "broken.safetensors"):
        broken.write_bytes(b"no weights at all")
        assert f"{broken.name} can't be read" in refused("--checkpoint", broken)
    torch.save({"epoch": 3}, file)
    assert "must be a state_dict" in refused("--checkpoint", file)
