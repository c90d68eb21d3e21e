"""A saved Core ML package, read from its files and run operation by operation with torch."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools
import torch
import torch.nn.functional as F
from coremltools.proto import MIL_pb2
from torch import Tensor

DATA = Path("Data", "com.apple.CoreML")


class Program:
    """The main function of an ML program, with the weights of the package."""

    def __init__(self, package: Path) -> None:
        spec = coremltools.utils.load_spec(str(package))
        self.data = package / DATA
        self.inputs = {
            feature.name: tuple(feature.type.multiArrayType.shape)
            for feature in spec.description.input
        }
        self.types = {
            feature.type.multiArrayType.dataType
            for feature in [*spec.description.input, *spec.description.output]
        }
        (function,) = spec.mlProgram.functions.values()
        self.block = function.block_specializations[function.opset]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its outputs by name, for all its inputs by name."""
        assert {name: tuple(x.shape) for name, x in inputs.items()} == self.inputs
        values: dict[str, Any] = dict(inputs)
        for operation in self.block.operations:
            arguments = {
                name: [values[a.name] if a.name else self._value(a.value) for a in bound.arguments]
                for name, bound in operation.inputs.items()
            }
            flat = {name: value for name, (value,) in arguments.items()}
            (output,) = operation.outputs
            if operation.type == "const":
                values[output.name] = self._value(operation.attributes["val"])
            else:
                values[output.name] = OPERATIONS[operation.type](**flat)
                assert list(values[output.name].shape) == [
                    d.constant.size for d in output.type.tensorType.dimensions
                ]
        return {name: values[name] for name in self.block.outputs}

    def _value(self, value: Any) -> Any:
        """A constant: a tensor of floats, a list or one of integers, a text."""
        kind = value.type.tensorType
        shape = [d.constant.size for d in kind.dimensions]
        if value.WhichOneof("value") == "blobFileValue":
            assert kind.dataType == MIL_pb2.FLOAT32
            return self._blob(value.blobFileValue.offset).reshape(shape)
        tensor = value.immediateValue.tensor
        content = list(getattr(tensor, tensor.WhichOneof("value")).values)
        if kind.dataType == MIL_pb2.FLOAT32:
            return torch.tensor(content).reshape(shape)
        return content if shape else content[0]

    def _blob(self, offset: int) -> Tensor:
        """An entry of weight.bin: a mark, the type (2 is float32), bytes, and where they begin."""
        content = (self.data / "weights" / "weight.bin").read_bytes()
        mark, kind, size, start = struct.unpack_from("<IIQQ", content, offset)
        assert (mark, kind) == (0xDEADBEEF, 2)
        return torch.frombuffer(bytearray(content[start : start + size]), dtype=torch.float32)


def _conv(
    x: Tensor,
    weight: Tensor,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    assert pad_type == "custom"
    top, bottom, left, right = pad
    return F.conv2d(
        F.pad(x, (left, right, top, bottom)), weight, bias, strides, 0, dilations, groups
    )


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "mul": lambda x, y: x * y,
    "add": lambda x, y: x + y,
}
