"""The structs of the kernels' headers, and KernelPlan.cpp as the Swift package compiles it."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "coreml_swift"
KERNELS = ROOT / "kernels_metal"
ACCUMULATE = EXAMPLE / "Kernels" / "accumulate.metal"


def struct(header: Path, name: str) -> type[ctypes.Structure]:
    """A struct of 64-bit integers that the header declares."""
    (body,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", header.read_text())
    declarations = [d for d in re.sub(r"//.*", "", body).split(";") if d.strip()]
    names = []
    for declaration in declarations:
        kind, _, rest = declaration.strip().partition(" ")
        assert kind == "int64_t"
        names += [n.strip() for n in rest.split(",")]
    fields = [(n, ctypes.c_int64) for n in names]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


class Dispatch(ctypes.Structure):
    """KernelDispatch of KernelPlan.h."""

    _fields_ = [("groups", ctypes.c_int64 * 3), ("threads", ctypes.c_int64 * 3)]


HaarArgs = struct(KERNELS / "args.h", "FwHaarArgs")
AccumulateArgs = struct(EXAMPLE / "Kernels" / "accumulate.h", "AccumulateArgs")


def plan(compiler: str, folder: Path) -> Any:
    """planHaar and planAccumulate, compiled into the folder."""
    library = folder / "plan.so"
    source = EXAMPLE / "Sources" / "KernelPlan"
    flags = ["-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    include = ["-I", str(source / "include"), str(source / "KernelPlan.cpp")]
    subprocess.run([compiler, *flags, *include, "-o", str(library)], check=True)
    functions = ctypes.CDLL(str(library))
    for function, args in (
        (functions.planHaar, HaarArgs),
        (functions.planAccumulate, AccumulateArgs),
    ):
        function.argtypes, function.restype = [args], Dispatch
    return functions
