"""The emulated device: CPU tensors go in, the kernels run over them as on Metal."""

from __future__ import annotations

import ctypes
import importlib.util
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from emulator.arguments import STRUCTS
from emulator.build import Builder

Sizes = tuple[Sequence[int], Sequence[int], int]
SCHEDULES = ("in_order", "reversed", "random")


class Call(NamedTuple):
    """A recorded launch."""

    kernel: str
    sizes: Sizes
    buffers: list[tuple[int, bytes]]
    args: bytes


class Device:
    """Runs kernels under a schedule, and may keep what it ran."""

    def __init__(self, builder: Builder) -> None:
        path = builder.module()
        spec = importlib.util.spec_from_file_location("fusewright_metal_emulator", path)
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.schedule = "in_order"
        self.recording: list[Call] | None = None
        self.launches: list[str] = []
        self.moved = 0  # bytes of the tensors that were bound, each once a launch
        self.backend: Any = None  # of backend.py: its dispatcher namespace ends with it
        self._seed = 0
        for name, size in self.module.sizes.items():
            assert ctypes.sizeof(STRUCTS[name]) == size, name

    def load(self, libraries: Iterable[Path]) -> None:
        """Take the kernels of these libraries, in the place of others of the same names."""
        for library in libraries:
            self.module.load_library(str(library))

    def plan(self, name: str, *args: Any) -> Any:
        """What a function of plan.h says; a struct goes in as its bytes."""
        return getattr(self.module, name)(
            *(bytes(a) if isinstance(a, ctypes.Structure) else a for a in args)
        )

    def run(
        self,
        kernel: str,
        sizes: str | Sizes,
        tensors: Sequence[Tensor | None],
        args: ctypes.Structure,
    ) -> None:
        """Run a kernel on the tensors, bound in their order, and the struct behind them.

        Args:
            sizes: groups, threads and threadgroup memory, or the plan that gives them.
        """
        planned: Sizes = self.plan(sizes, args) if isinstance(sizes, str) else sizes
        if 0 in planned[0]:
            return
        self._seed += 1
        self.launches.append(kernel)
        self.moved += sum(t.numel() * t.element_size() for t in tensors if t is not None)
        if self.recording is not None:
            buffers = [(i, _memory(t)) for i, t in enumerate(tensors)]
            self.recording.append(Call(kernel, planned, buffers, bytes(args)))
        bindings = [(i, *_extent(t)) for i, t in enumerate(tensors)]
        self.module.launch(
            kernel, planned, bindings, len(bindings), bytes(args), self.schedule, self._seed
        )


def write_recording(path: Path, calls: Sequence[Call]) -> None:
    """The file that replay.cpp reads."""
    parts: list[bytes] = []

    def number(value: int) -> None:
        parts.append(struct.pack("<q", value))

    def text(value: bytes) -> None:
        number(len(value))
        parts.append(value)

    number(len(calls))
    for call in calls:
        text(call.kernel.encode())
        groups, threads, memory = call.sizes
        for value in (*groups, *threads, memory, len(call.buffers)):
            number(value)
        text(call.args)
        number(len(call.buffers))
        for index, data in call.buffers:
            number(index)
            text(data)
    path.write_bytes(b"".join(parts))


def _extent(t: Tensor | None) -> tuple[int, int]:
    """Where a tensor's data begins, and the bytes from there to the end of its storage."""
    if t is None or t.untyped_storage().nbytes() == 0:
        return 0, 0
    offset = int(t.storage_offset()) * t.element_size()
    size = max(t.untyped_storage().nbytes() - offset, 0)  # a slice of nothing may begin anywhere
    return t.untyped_storage().data_ptr() + offset, size


def _memory(t: Tensor | None) -> bytes:
    data, size = _extent(t)
    return ctypes.string_at(data, size) if size else b""
