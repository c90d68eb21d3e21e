"""Writes the convolutions of a WTConv2d as a Core ML model, which examples/coreml_swift runs.

The Haar transforms are Metal kernels and stay outside. The model has an input and an output for the
base branch, `x` and `base`, and for every level, `bands1` and `filtered1` and so on:

    base      = base_scale * (conv(x, base_weight) + base_bias)
    filteredI = scale_I * conv(bandsI, weight_I)

    python tools/export_wtconv_coreml.py --channels 32 --height 56 --width 56 --levels 3
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import torch
from torch import Tensor

from fusewright import nn
from fusewright._extra import extra

with extra("coreml"):
    import coremltools
    import safetensors.torch
    import typer
    from coremltools.converters.mil import Builder, Function
    from safetensors import SafetensorError

TARGET = coremltools.target.macOS13

Channels = Annotated[int, typer.Option(min=1, help="Channels of the image.")]
Height = Annotated[int, typer.Option(min=1, help="Rows of the image.")]
Width = Annotated[int, typer.Option(min=1, help="Columns of the image.")]
Levels = Annotated[int, typer.Option(min=0, help="Levels of the wavelet transform.")]
KernelSize = Annotated[int, typer.Option(min=1, help="Size of the convolutions.")]
Bias = Annotated[bool, typer.Option(help="Whether the base convolution has a bias.")]
Seed = Annotated[int, typer.Option(help="Of the random parameters; unused with a checkpoint.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="A state_dict: .safetensors, or of torch.save."),
]
Prefix = Annotated[str, typer.Option(help="Of the layer's keys in the checkpoint.")]


def make_layer(
    channels: int,
    levels: int,
    kernel_size: int,
    bias: bool,
    seed: int,
    checkpoint: Path | None,
    prefix: str,
) -> nn.WTConv2d:
    """The layer in fp32, from a checkpoint with any of the published key sets, or random."""
    torch.manual_seed(seed)
    layer = nn.WTConv2d(channels, channels, kernel_size, bias=bias, wt_levels=levels)
    if checkpoint is not None:
        load(layer, checkpoint, prefix)
        return layer
    # the scales start as constants, which would hide one that is lost or misplaced
    for name, parameter in layer.named_parameters():
        if "scale" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def load(layer: nn.WTConv2d, checkpoint: Path, prefix: str) -> None:
    """Fill the layer with the checkpoint's entries that begin with the prefix."""
    try:
        if checkpoint.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(checkpoint)
        else:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        text = f"{checkpoint} can't be read, must be .safetensors or of torch.save: {error}"
        raise typer.BadParameter(text, param_hint="--checkpoint") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        keys = list(state)[:5] if isinstance(state, Mapping) else type(state).__name__
        must = "must be a state_dict, names and tensors"
        raise typer.BadParameter(f"{checkpoint} holds {keys}, {must}", param_hint="--checkpoint")
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not own:
        found = f"is {prefix!r}, must begin a key of {checkpoint}, such as {next(iter(state), '')}"
        raise typer.BadParameter(found, param_hint="--prefix")
    try:
        layer.load_state_dict(own)
    except RuntimeError as error:  # names every key that is missing or of another shape
        raise typer.BadParameter(str(error), param_hint="--checkpoint") from None


def band_sizes(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """Height and width of the bands of every level: half of the level above, rounded up."""
    sizes = []
    for _ in range(levels):
        height, width = (height + 1) // 2, (width + 1) // 2
        sizes.append((height, width))
    return sizes


def export(layer: nn.WTConv2d, height: int, width: int, package: Path) -> None:
    """Save the layer's convolutions and scales, in fp32, for one image of that size.

    Args:
        package: where; a package that is there is replaced. Its name ends in `.mlpackage`.
    """
    channels, before = layer.in_channels, (layer.kernel_size - 1) // 2
    after = layer.kernel_size - 1 - before
    sizes = band_sizes(height, width, layer.wt_levels)
    shapes = {"x": (1, channels, height, width)} | {
        f"bands{level}": (1, 4 * channels, *size) for level, size in enumerate(sizes, 1)
    }

    def branch(x: Any, conv: Any, scale: Any, name: str) -> Any:
        options = {} if conv.bias is None else {"bias": conv.bias.detach().numpy()}
        y = Builder.conv(
            x=x,
            weight=conv.weight.detach().numpy(),
            groups=conv.groups,
            pad_type="custom",
            pad=[before, after, before, after],
            **options,
        )
        return Builder.mul(x=y, y=scale.detach().numpy(), name=name)

    inputs = {name: Builder.placeholder(shape) for name, shape in shapes.items()}
    with Function(inputs, opset_version=TARGET) as function:
        base = branch(function.inputs["x"], layer.base_conv, layer.base_scale.weight, "base")
        filtered = [
            branch(function.inputs[f"bands{level}"], conv, scale.weight, f"filtered{level}")
            for level, (conv, scale) in enumerate(
                zip(layer.wavelet_convs, layer.wavelet_scale, strict=True), 1
            )
        ]
        function.set_outputs([base, *filtered])
    program = coremltools.converters.mil.Program()
    program.add_function("main", function)
    package.parent.mkdir(parents=True, exist_ok=True)
    if (package / "Manifest.json").exists():  # coremltools writes into no folder that has files
        shutil.rmtree(package)
    coremltools.convert(
        program,
        convert_to="mlprogram",
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=TARGET,
        package_dir=str(package),
        skip_model_load=True,
    )


def main(
    output: Annotated[
        Path, typer.Option(help="The package to write; one that is there is replaced.")
    ] = Path("examples/coreml_swift/Models/WTConv.mlpackage"),
    channels: Channels = 32,
    height: Height = 56,
    width: Width = 56,
    levels: Levels = 3,
    kernel_size: KernelSize = 5,
    bias: Bias = True,
    seed: Seed = 0,
    checkpoint: Checkpoint = None,
    prefix: Prefix = "",
) -> None:
    """Write the convolutions of a WTConv2d as a Core ML model."""
    if output.suffix != ".mlpackage":
        raise typer.BadParameter(f"is {output}, must end in .mlpackage", param_hint="--output")
    if output.exists() and not (output / "Manifest.json").exists():
        found = f"is {output}, which exists and is no Core ML package, must be one or not exist"
        raise typer.BadParameter(found, param_hint="--output")
    layer = make_layer(channels, levels, kernel_size, bias, seed, checkpoint, prefix)
    export(layer, height, width, output)
    print(f"{output}: x (1, {channels}, {height}, {width}), {levels} levels, {layer.extra_repr()}")


if __name__ == "__main__":
    typer.run(main)
