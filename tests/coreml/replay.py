"""Pipeline.swift and HaarKernels.swift, run on Linux: their own functions, as swift.py reads them.

What Apple's frameworks do is done here: tensors are torch's, Metal's encoder launches the emulated
kernels, and the Core ML model is the saved program, run by program.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from coreml import headers, swift
from coreml.swift import Array

if TYPE_CHECKING:  # there are platforms without coremltools
    from coreml.program import Program

SWIFT = headers.EXAMPLE / "Sources" / "WTConvCoreMLRunner"
SHAPE, TENSOR, PIPELINE, KERNELS = (
    swift.Source(SWIFT / f"{name}.swift") for name in ("Shape", "Tensor", "Pipeline", "HaarKernels")
)
# kernel, groups, threads, buffers by index, index and bytes of the arguments
Launch = Callable[[str, list[int], list[int], dict[int, torch.Tensor], int, bytes], None]


@dataclass
class Tensor:
    name: str
    channels: int
    height: int
    width: int
    buffer: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = (1, self.channels, self.height, self.width)
        self.buffer = torch.full(shape, float("nan"))

    @property
    def low(self) -> Planes:
        return TENSOR.run("low", {"self": self, "Planes": Planes})

    @property
    def all(self) -> Planes:
        return TENSOR.run("all", {"self": self, "Planes": Planes})


@dataclass
class Planes:
    tensor: Tensor
    step: int

    @property
    def count(self) -> int:
        return TENSOR.run("count", vars(self))

    @property
    def stride(self) -> int:
        return TENSOR.run("stride", vars(self))


class Encoder:
    """A MTLComputeCommandEncoder, each dispatch of which runs at once."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.kernel = ""
        self.buffers: dict[int, torch.Tensor] = {}
        self.bytes: dict[int, bytes] = {}

    def setComputePipelineState(self, state: str) -> None:  # noqa: N802
        self.kernel = state

    def setBuffer(self, buffer: torch.Tensor, offset: int, index: int) -> None:  # noqa: N802
        assert offset == 0
        self.buffers[index] = buffer

    def setBytes(self, data: bytes, length: int, index: int) -> None:  # noqa: N802
        self.bytes[index] = data[:length]

    def dispatchThreadgroups(  # noqa: N802
        self,
        groups: list[int],
        threadsPerThreadgroup: list[int],  # noqa: N803
    ) -> None:
        ((index, data),) = self.bytes.items()
        self.launch(self.kernel, groups, threadsPerThreadgroup, self.buffers, index, data)


class HaarKernels:
    """The methods of HaarKernels.swift that encode."""

    def __init__(self, launch: Launch, plan: Any) -> None:
        self.launch = launch
        self.names: dict[str, Any] = {
            **kernel_names(),
            "Int64": int,
            "MTLSize": list,
            "FwHaarArgs": memberwise(headers.HaarArgs),
            "AccumulateArgs": memberwise(headers.AccumulateArgs),
            "planHaar": plan.planHaar,
            "planAccumulate": plan.planAccumulate,
            "withUnsafeBytes": lambda body, of: body(
                SimpleNamespace(baseAddress=bytes(of), count=ctypes.sizeof(of))
            ),
            "encode": lambda *args: KERNELS.run("encode", self.names, *args),
        }

    def run(self, encode: Callable[[Encoder], None]) -> None:
        encode(Encoder(self.launch))

    def forward(self, encoder: Encoder, image: Planes, to: Tensor) -> None:
        KERNELS.run("forward", self.names, encoder, image, to=to)

    def inverse(self, encoder: Encoder, bands: Tensor, to: Tensor) -> None:
        KERNELS.run("inverse", self.names, encoder, bands, to=to)

    def add(self, encoder: Encoder, image: Tensor, to: Planes) -> None:
        KERNELS.run("add", self.names, encoder, image, to=to)


class Pipeline:
    """The stages of Pipeline.swift, on one image."""

    def __init__(self, program: Program, haar: HaarKernels) -> None:
        _, channels, height, width = program.inputs["x"]
        shape = SimpleNamespace(channels=channels, height=height, width=width)
        names = {"Array": Array, "levels": len(program.inputs) - 1, "self": shape}
        images = SHAPE.run("images", {**names, "half": half})
        self.names: dict[str, Any] = {
            "Array": Array,
            "haar": haar,
            "convolutions": self,
            "image": Tensor("x", channels, height, width),
            "result": Tensor("base", channels, height, width),
            "levels": Array(
                SimpleNamespace(
                    bands=Tensor(f"bands{i}", 4 * channels, half(h), half(w)),
                    filtered=Tensor(f"filtered{i}", 4 * channels, half(h), half(w)),
                    reconstruction=Tensor(f"reconstruction{i}", channels, h, w),
                )
                for i, (h, w) in enumerate(images, 1)
            ),
        }
        self.program = program

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.names["image"].buffer.copy_(x)
        for stage in ("transform", "convolve", "reconstruct"):
            PIPELINE.run(stage, self.names)
        return self.names["result"].buffer.clone()

    def predict(self, from_: list[Tensor], into: list[Tensor]) -> None:
        """Of Convolutions.swift: tensors are the model's inputs and outputs by name."""
        outputs = self.program({tensor.name: tensor.buffer for tensor in from_})
        assert outputs.keys() == {tensor.name for tensor in into}
        for tensor in into:
            tensor.buffer.copy_(outputs[tensor.name])


def half(size: int) -> int:
    return SHAPE.run("half", {}, size)


def memberwise(struct: type[ctypes.Structure]) -> Callable[..., ctypes.Structure]:
    """Swift's initializer of a C struct: every member by name, in their order."""
    members = [name for name, *_ in struct._fields_]

    def initialize(**values: int) -> ctypes.Structure:
        assert list(values) == members
        return struct(**values)

    return initialize


def kernel_names() -> dict[str, str]:
    """What each pipeline state of HaarKernels.swift is made of: the last text of its assignment."""
    found = {}
    for node in swift.walk(swift.parse(SWIFT / "HaarKernels.swift").root_node):
        if node.type == "assignment":
            texts = [swift.text(n) for n in swift.walk(node) if n.type == "line_str_text"]
            if texts:
                found[swift.text(swift.field(node, "target"))] = texts[-1]
    return found
