"""The Swift sources parse, and what they bind is what the kernels take."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from coreml import headers, replay, swift

SOURCES = sorted([headers.EXAMPLE / "Package.swift", *replay.SWIFT.glob("*.swift")])
FILES = {
    "haar": headers.KERNELS / "haar2d.metal",
    "ihaar": headers.KERNELS / "ihaar2d.metal",
    "accumulate": headers.ACCUMULATE,
}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_parses(file: Path) -> None:
    wrong = [n for n in swift.walk(swift.parse(file).root_node) if n.is_error or n.is_missing]
    assert not [(node.start_point, swift.text(node)) for node in wrong]


def test_errors_are_found(tmp_path: Path) -> None:
    broken = tmp_path / "Broken.swift"
    broken.write_text(SOURCES[-1].read_text().replace("func run() throws {", "func run( throws {"))
    assert swift.parse(broken).root_node.has_error


def test_options() -> None:
    """The command line is the documented one."""
    source = swift.parse(replay.SWIFT / "WTConvCoreMLRunner.swift").root_node
    names = []
    for node in swift.walk(source):
        text = swift.text(node)
        if node.type == "property_declaration" and text.startswith("@Option"):
            custom = re.search(r'\.customLong\("([^"]+)"\)', text)
            names.append(custom[1] if custom else swift.text(swift.field(node, "name")))
    sizes = ["channels", "height", "width", "levels"]
    assert names == ["model", *sizes, "input-f32", "output-f32", "iterations"]


def kernel_buffers(kind: str) -> dict[int, str]:
    """What a kernel declares as each buffer; a macro or a template may have made it."""
    function = replay.kernel_names()[kind].removesuffix("_float")
    text = FILES[kind].read_text()
    assert re.search(rf'FW_KERNELS?\("{function}', text)
    (parameters,) = re.findall(rf"void {function}\((.*?)\)\s*\{{", text, flags=re.S)
    found = re.findall(r"([\w\s*&]+?)\s*\[\[buffer\((\d+)\)\]\]", parameters)
    return {int(index): " ".join(declared.split()) for declared, index in found}


@pytest.mark.parametrize("kind", FILES)
def test_bindings(kind: str) -> None:
    """encode() sets the buffers that the kernel has, the arguments by setBytes as a constant."""
    (encode,) = (
        node
        for node in swift.walk(swift.parse(replay.SWIFT / "HaarKernels.swift").root_node)
        if node.type == "function_declaration" and swift.text(swift.field(node, "name")) == "encode"
    )
    calls = re.findall(r"(setBuffer|setBytes)\((.*?), index: (\d+)\)", swift.text(encode), re.S)
    bound = {int(index): call for call, _, index in calls}
    declared = kernel_buffers(kind)
    assert bound.keys() == declared.keys()
    struct = "AccumulateArgs" if kind == "accumulate" else "FwHaarArgs"
    for index, call in bound.items():
        assert (call == "setBytes") == declared[index].startswith(f"constant {struct}&"), index
        assert (call == "setBuffer") == ("device T*" in declared[index]), index


def test_read_and_written_buffers() -> None:
    """By the kernels' declarations; the methods of HaarKernels bind them in this order."""
    read = {kind: ["const" in kernel_buffers(kind)[i] for i in (0, 1)] for kind in FILES}
    assert read == {"haar": [True, False], "ihaar": [True, False], "accumulate": [False, True]}


def test_structs_come_from_the_kernels() -> None:
    """No copy of a layout: Swift imports the headers that the kernels include."""
    include = headers.EXAMPLE / "Sources" / "KernelPlan" / "include"
    text = (include / "KernelPlan.h").read_text()
    named = [(include / path).resolve() for path in re.findall(r'#include "(.*)"', text)]
    assert named == [headers.KERNELS / "args.h", headers.ACCUMULATE.with_suffix(".h")]
    for file in SOURCES:
        assert not re.search(r"struct (FwHaarArgs|AccumulateArgs)\b", file.read_text())
    assert ctypes.sizeof(headers.HaarArgs) == 8 * 8
    assert ctypes.sizeof(headers.AccumulateArgs) == 3 * 8


@pytest.mark.parametrize("kind", FILES)
def test_includes_can_be_resolved(kind: str) -> None:
    """KernelSource.swift takes lines of one form, and paths from the file that has them."""
    todo, seen = [FILES[kind]], set()
    while todo:
        file = todo.pop().resolve()
        seen.add(file)
        for line in file.read_text().splitlines():
            if re.match(r"\s*#\s*include\b", line) and "<" not in line:
                form = re.fullmatch(r'#include "(\S+)"', line)
                assert form, f"{file}: {line}"
                todo += [path for path in [file.parent / form[1]] if path.resolve() not in seen]
    assert headers.KERNELS / "args.h" in seen


def test_kernels_are_not_copied() -> None:
    """The Haar kernels are the wheel's files; the example has one kernel of its own."""
    assert [p.name for p in headers.EXAMPLE.rglob("*.metal")] == ["accumulate.metal"]
    (location,) = re.findall(
        r'appendingPathComponent\("(.*)/\\\(name\)\.metal"\)',
        (replay.SWIFT / "Locations.swift").read_text(),
    )
    assert headers.EXAMPLE.parents[1] / location == headers.KERNELS
