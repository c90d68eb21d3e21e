"""Turns a preprocessed .metal file into C++ that clang accepts, with a table of its kernels.

Nothing is changed but the explicit instantiations: they carry a `[[host_name]]`, which C++ has no
place for, and become a table of functions that call the kernel for one thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_INSTANTIATION = re.compile(
    r"template\s*\[\[\s*host_name\(([^)]*)\)\s*\]\]\s*\[\[\s*kernel\s*\]\]\s*"
    r"decltype\((\w+)<([^;]*?)>\)\s*\2<\3>\s*;"
)
_DECLARATION = re.compile(
    r"\[\[\s*kernel\s*(?:,\s*max_total_threads_per_threadgroup\((\d+)\)\s*)?\]\]\s*"
    r"void\s+(\w+)\s*\("
)
_MOST_THREADS = 1024  # of a kernel that does not say
_ATTRIBUTE = re.compile(r"\[\[\s*(\w+)\s*(?:\(\s*(\d+)\s*\))?\s*\]\]")
# What the preprocessor, for which `threadgroup` is an address space or nothing, leaves of
# [[threadgroup(0)]].
_THREADGROUP = re.compile(r"\[\[\s*(?:__attribute__\(\(address_space\(2\)\)\))?\s*\((\d+)\)\s*\]\]")
# Attributes of a thread: those of three dimensions, and those that are one number.
_POSITIONS = {
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_threadgroup",
    "threads_per_grid",
}
_INDICES = {
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "simdgroups_per_threadgroup",
}
# What Metal's compiler has not, and clang would take.
_FOREIGN = {
    "a lambda": re.compile(r"\[[&=]\w*\]|\[\]\s*[({]"),
    "an exception": re.compile(r"\b(?:throw|try|catch)\b"),
    "memory of its own": re.compile(r"\b(?:new|delete|malloc)\b"),
    "a virtual function": re.compile(r"\bvirtual\b"),
    "a jump": re.compile(r"\bgoto\b"),
    "a keyword as a name": re.compile(
        r"(?<!\[\[)\b(?:kernel|vertex|fragment|visible|object|mesh|sampler|patch)\b"
    ),
    "a bfloat, which Metal 3.0 has not": re.compile(r"\bbfloat\b"),
}


class Parameter(NamedTuple):
    """One argument of a kernel: how a thread passes it, and the buffer that it is, if any."""

    passed: str
    buffer: int | None
    threadgroup: bool


class Function(NamedTuple):
    """A kernel: its parameters, and how many threads a threadgroup of it may have."""

    parameters: list[Parameter]
    most_threads: int


class NotMetalError(Exception):
    """A .metal file holds what its compiler would not take."""


def check_text(name: str, text: str) -> None:
    """Raise if the text of a .metal file or of its headers uses what Metal's compiler has not."""
    code = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', "", text, flags=re.S)
    for what, pattern in _FOREIGN.items():
        found = pattern.search(code)
        if found is not None:
            line = code.count("\n", 0, found.start()) + 1
            raise NotMetalError(f"{name}:{line}: {what}: {found[0]!r}")


def kernels_of(preprocessed: str) -> dict[str, Function]:
    """Every kernel function by its name."""
    return {
        name: Function(
            [_parameter(name, p) for p in _parameters(preprocessed[match.end() :])],
            int(match[1] or _MOST_THREADS),
        )
        for match in _DECLARATION.finditer(preprocessed)
        for name in [match[2]]
    }


def generate(preprocessed: str) -> str:
    """The C++ of a preprocessed .metal file."""
    preprocessed = _THREADGROUP.sub(r"[[threadgroup_memory(\1)]]", preprocessed)
    kernels = kernels_of(preprocessed)
    entries: list[str] = []

    def remember(match: re.Match[str]) -> str:
        name = "".join(re.findall(r'"([^"]*)"', match[1]))
        parameters, threads = kernels[match[2]]
        buffers = sum(1 << p.buffer for p in parameters if p.buffer is not None)
        takes_memory = str(any(p.threadgroup for p in parameters)).lower()
        call = f"{match[2]}<{match[3]}>({', '.join(p.passed for p in parameters)})"
        entries.append(
            f'{{"{name}", [](const emulator::Thread& t) {{ {call}; }}, '
            f"{buffers}u, {takes_memory}, {threads}}}"
        )
        return ""

    code = _INSTANTIATION.sub(remember, preprocessed)
    if "host_name" in code or not entries:
        raise NotMetalError("an instantiation is not of the form that FW_KERNEL gives")
    table = ",\n    ".join([*entries, "{nullptr, nullptr, 0, false, 0}"])
    return (
        f"{code}\nstatic const emulator::Kernel fw_table[] = {{\n    {table}}};\n"
        'extern "C" const emulator::Kernel* fw_kernels() { return fw_table; }\n'
    )


def _parameters(text: str) -> Iterator[str]:
    """The parameters of a function, given what follows its opening parenthesis."""
    depth, begin = 1, 0
    for token in re.finditer(r"[()\[\]{}<>,]", text):
        depth += token[0] in "([{<"
        depth -= token[0] in ")]}>"
        if depth == 0 or (depth == 1 and token[0] == ","):
            yield text[begin : token.start()]
            begin = token.end()
        if depth == 0:
            return
    raise NotMetalError("a kernel's parameters do not end")


def _parameter(kernel: str, text: str) -> Parameter:
    attributes = [(name, index) for name, index in _ATTRIBUTE.findall(text)]
    if len(attributes) != 1:
        raise NotMetalError(f"{kernel}: a parameter without an attribute: {' '.join(text.split())}")
    name, index = attributes[0]
    if name == "buffer":
        kind = "Reference" if "&" in text else "Pointer"
        return Parameter(f"emulator::{kind}{{t.buffers[{index}]}}", int(index), False)
    if name == "threadgroup_memory" and index == "0":
        return Parameter("emulator::Pointer{t.threadgroup}", None, True)
    if name in _POSITIONS:
        return Parameter(f"emulator::Position{{t.{name}}}", None, False)
    if name in _INDICES:
        return Parameter(f"t.{name}", None, False)
    raise NotMetalError(f"{kernel}: no emulated attribute: {name}({index})")
