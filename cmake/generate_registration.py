"""Write the C++ prototypes and the registration of the kernels a backend's files implement.

The schemas are read from the `Op(...)` calls of python/fusewright/ops as literals: nothing of the
package is imported, so the build needs no torch to run this.
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

TYPES = {
    "Tensor": "const torch::stable::Tensor&",
    "Tensor?": "const std::optional<torch::stable::Tensor>&",
    "Tensor[]": "const std::vector<torch::stable::Tensor>&",
    "float": "double",
    "float?": "std::optional<double>",
    "int": "int64_t",
    "int?": "std::optional<int64_t>",
    "int[]": "const std::vector<int64_t>&",
    "bool": "bool",
    "str": "const std::string&",
}
RETURNS = {"Tensor": "torch::stable::Tensor", "Tensor[]": "std::vector<torch::stable::Tensor>"}

KEYS = {"metal": "MPS"}  # dispatcher keys that are not called as their backend


def schemas_of(path: Path) -> dict[str, str]:
    """The schemas of the `Op(...)` in one file, by kernel name."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Op"):
            continue
        literals = {
            k.arg: ast.literal_eval(k.value)
            for k in node.keywords
            if k.arg in ("name", "forward", "backward")
        }
        found[literals["name"]] = literals["forward"]
        if literals.get("backward") is not None:
            found[literals["name"] + "_backward"] = literals["backward"]
    return found


def prototype(name: str, schema: str) -> str:
    """The C++ declaration of a kernel."""
    parsed = re.fullmatch(r"\s*\((.*)\)\s*->\s*(.*?)\s*", schema, re.S)
    if parsed is None:
        raise ValueError(f"{name}: {schema!r} is no schema")
    arguments, returns = parsed.groups()
    parameters = []
    for argument in filter(None, (a.strip() for a in arguments.split(","))):
        kind, label = re.sub(r"\([a-z]!\)", "", argument).split()
        parameters.append(f"{TYPES[kind]} {label}")
    kinds = [r.split()[0] for r in returns.strip("()").split(",") if r.strip()]
    results = [RETURNS[kind] for kind in kinds]
    result = "void" if not results else results[0]
    if len(results) > 1:
        result = f"std::tuple<{', '.join(results)}>"
    return f"{result} {name}({', '.join(parameters)});"


def registrations(space: str, isas: list[str], names: list[str]) -> str:
    """The statements that register every kernel; of several instruction sets, the chosen one."""

    def of(inner: str) -> str:
        return "\n".join(f'  m.impl("{name}", TORCH_BOX(&{inner}::{name}));' for name in names)

    if not isas:
        return of(space)
    chosen = f"{space}::chosen_isa()"
    return "\n".join(
        f"  if ({chosen} == {space}::Isa::{isa}) {{\n{of(f'{space}::{isa}')}\n  }}"
        for isa in reversed(isas)
    )


def write(path: Path, text: str) -> None:
    """Leave an unchanged file alone, so that nothing is compiled again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    else:
        path.touch()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--isas", default="", help="instruction sets to choose from at load")
    parser.add_argument("--ops", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("kernels", nargs="*", type=Path)
    args = parser.parse_args()

    schemas: dict[str, str] = {}
    for kernel in sorted(args.kernels):
        schemas.update(schemas_of(args.ops / f"{kernel.stem}.py"))
    declarations = "\n".join(prototype(name, schema) for name, schema in schemas.items())
    space = f"fusewright::{args.backend}"
    isas = list(filter(None, args.isas.split(",")))
    spaces = "\n".join(
        f"namespace {inner} {{\n{declarations}\n}}"
        for inner in ([f"{space}::{isa}" for isa in isas] or [space])
    )
    key = KEYS.get(args.backend, args.backend.upper())
    head = "// Generated from the schemas in python/fusewright/ops.\n"
    includes = "".join(f"#include <{h}>\n" for h in ("optional", "string", "tuple", "vector"))
    args.out.mkdir(parents=True, exist_ok=True)
    write(
        args.out / "prototypes.h",
        f"{head}#pragma once\n{includes}#include <torch/csrc/stable/tensor.h>\n{spaces}\n",
    )
    write(
        args.out / "register.cpp",
        f"{head}#include <torch/csrc/stable/library.h>\n"
        + (f'#include "{args.backend}/isa/isa.h"\n' if isas else "")
        + f'#include "prototypes.h"\n'
        f"STABLE_TORCH_LIBRARY_IMPL(fusewright_{args.backend}, {key}, m) {{\n"
        f"{registrations(space, isas, list(schemas))}\n}}\n",
    )


if __name__ == "__main__":
    main()
