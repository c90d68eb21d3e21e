"""Runs the built Swift example beside PyTorch, and reports how far their results are apart.

It exports the layer, so that both have the same weights, and gives both the same random image.

    swift build -c release --package-path examples/coreml_swift
    python tools/check_outputs_vs_pytorch.py --channels 32 --height 57 --width 56 --levels 3

Exits with 0 if the results agree, 1 if they do not, 2 if the example can't be run.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import fusewright
from export_wtconv_coreml import (
    Bias,
    Channels,
    Checkpoint,
    Height,
    KernelSize,
    Levels,
    Prefix,
    Seed,
    Width,
    export,
    make_layer,
)

PACKAGE = Path("examples/coreml_swift")


def run_example(binary: Path, package: Path, x: Tensor, levels: int, iterations: int) -> Tensor:
    """What the example computes of x with that model; its own report is passed on."""
    given, result = package.with_name("input.f32"), package.with_name("output.f32")
    given.write_bytes(x.numpy().tobytes())
    sizes = dict(zip(("channels", "height", "width"), x.shape[1:], strict=True))
    options = {
        "model": package,
        **sizes,
        "levels": levels,
        "input-f32": given,
        "output-f32": result,
        "iterations": iterations,
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    status = subprocess.run([str(binary.absolute()), *arguments], check=False).returncode
    if status != 0:
        raise typer.BadParameter(f"{binary} failed with status {status}", param_hint="--binary")
    content = bytearray(result.read_bytes())
    if len(content) != 4 * x.numel():
        found = f"{binary} wrote {len(content)} bytes, must write {4 * x.numel()}"
        raise typer.BadParameter(found, param_hint="--binary")
    return torch.frombuffer(content, dtype=torch.float32).reshape(x.shape)


def report(y: Tensor, expected: Tensor, atol: float, rtol: float) -> bool:
    """Print the errors; whether they are within the bounds."""
    error = (y.double() - expected.double()).abs()
    close = torch.allclose(y, expected, atol=atol, rtol=rtol)
    print(f"max_abs   {error.max().item():.3e}")
    print(f"mean_abs  {error.mean().item():.3e}")
    print(f"rmse      {error.square().mean().sqrt().item():.3e}")
    print(f"allclose(atol={atol:g}, rtol={rtol:g})  {close}")
    return close


def main(
    binary: Annotated[Path, typer.Option(help="The built example.")] = PACKAGE
    / ".build/release/WTConvCoreMLRunner",
    channels: Channels = 32,
    height: Height = 56,
    width: Width = 56,
    levels: Levels = 3,
    kernel_size: KernelSize = 5,
    bias: Bias = True,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    prefix: Prefix = "",
    iterations: Annotated[int, typer.Option(min=1, help="Runs that the example times.")] = 10,
    atol: Annotated[float, typer.Option(min=0, help="Absolute error that is allowed.")] = 1e-4,
    rtol: Annotated[float, typer.Option(min=0, help="Relative error that is allowed.")] = 1e-4,
) -> None:
    """Run the Swift example beside PyTorch, and report how far their results are apart."""
    if not binary.is_file():
        how = f"swift build -c release --package-path {PACKAGE}"
        raise typer.BadParameter(f"{binary} does not exist: {how}", param_hint="--binary")
    layer = make_layer(channels, levels, kernel_size, bias, seed, checkpoint, prefix)
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "WTConv.mlpackage")
        export(layer, height, width, package)
        y = run_example(binary, package, x, levels, iterations)
    with torch.no_grad(), fusewright.use_backend("reference"):
        expected = layer(x)
    if not report(y, expected, atol, rtol):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
