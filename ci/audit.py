"""What a wheel may hold and ask for, before anyone installs it.

- Its libraries need no other library than torch's and the system's, and no mangled symbol of torch
  and no symbol of Python: that is what makes one wheel serve every torch and every Python.
- Its size keeps within the budget, its version is the project's, its tag is one that indexes take.
- Its files are those of `tests/golden/wheel-<name>.txt`; `--update` writes that list anew.

Needs the extra `wheels`; reads the libraries of every platform on any.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import lief
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
BUDGET = {"fusewright": 2_000_000, "fusewright-cu13": 60_000_000}  # bytes of the file

LIBRARY = re.compile(r"(?:lib)?(fusewright_[a-z]+)\.(?:so|dylib|dll)$")
NEEDED = re.compile(
    r"libtorch\.so|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-.*\.so\.\d"
    r"|/usr/lib/lib(c\+\+|System\.B|objc\.A)(\.\d)?\.dylib|/System/Library/Frameworks/.*"
    r"|torch_cpu\.dll|kernel32\.dll|msvcp140.*\.dll|vcruntime140.*\.dll|api-ms-win-crt-.*\.dll",
    re.I,
)
# After demangling; Microsoft's own mangling puts the namespaces last.
OF_TORCH = re.compile(r"\b(c10|at|torch|caffe2)::|@(c10|at|torch|caffe2)@@")
OF_PYTHON = re.compile(r"_{0,2}Py[A-Z_]")
# Metal kernels encode on torch's own stream, which its stable ABI does not give.
OF_TORCH_MPS = re.compile(
    r"torch::mps::(commit|get_command_buffer|get_dispatch_queue|synchronize)\("
)
Library: TypeAlias = lief.ELF.Binary | lief.MachO.Binary | lief.PE.Binary
TAG = re.compile(r"manylinux_2_\d+_(x86_64|aarch64)|macosx_\d+_0_arm64|win_amd64")


def libraries(wheel: Path) -> Iterator[tuple[str, Library]]:
    """The shared libraries of a wheel, by their name in it."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for name in archive.namelist():
            if LIBRARY.search(name) is None:
                continue
            binary = lief.parse(archive.extract(name, folder))
            if not isinstance(binary, Library):
                raise ValueError(f"{wheel.name}: {name} is no library")
            yield name, binary


def undefined(binary: Library) -> list[str]:
    """What a library takes from others, demangled where that can be done."""
    if isinstance(binary, lief.PE.Binary):
        return [str(entry.name) for library in binary.imports for entry in library.entries]
    symbols = binary.imported_symbols
    return [str(s.demangled_name or s.name) for s in symbols]


def is_foreign(symbol: str, library: str = "") -> bool:
    """Whether a demangled symbol ties the library to one torch, or to one Python."""
    if "metal" in library and OF_TORCH_MPS.match(symbol):
        return False
    return bool(OF_TORCH.search(symbol) or OF_PYTHON.match(symbol))


def needs(name: str, binary: Library) -> Iterator[str]:
    """What a library needs and must not."""
    needed = [
        str(getattr(library, "name", library))
        for library in binary.libraries
        if LIBRARY.search(str(getattr(library, "name", library))) is None  # a Mach-O names itself
    ]
    for library in needed:
        if NEEDED.fullmatch(library) is None:
            yield f"{name} needs {library}"
    if isinstance(binary, lief.ELF.Binary) and "libtorch.so" not in needed:
        yield f"{name} does not need libtorch.so: it would fail to load"
    for symbol in undefined(binary):
        if is_foreign(symbol, name):
            yield f"{name} takes {symbol} from what is installed"


def contents(wheel: Path) -> list[str]:
    """The names in a wheel, without what differs between versions and platforms."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/")]
    short = (LIBRARY.sub(r"\1.library", n.replace(stem, "NAME-VERSION")) for n in names)
    return sorted(short)


def metadata(wheel: Path) -> str:
    """The core metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def strangers(wheel: Path, update: bool) -> Iterator[str]:
    """Files that slipped into the wheel, or out of it."""
    name = parse_wheel_filename(wheel.name)[0]
    golden = GOLDEN / f"wheel-{name}.txt"
    found = contents(wheel)
    if "macosx" in wheel.name:  # the one platform that has more
        found = [n for n in found if n != "fusewright/lib/fusewright_metal.library"]
    if update:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text("".join(f"{n}\n" for n in found))
        return
    expected = golden.read_text(encoding="utf-8").splitlines() if golden.exists() else []
    yield from (f"holds {n}, which {golden.name} does not list" for n in found if n not in expected)
    yield from (f"lacks {n}, which {golden.name} lists" for n in expected if n not in found)


def complaints(wheel: Path, update: bool = False) -> Iterator[str]:
    """Everything that is wrong with a wheel."""
    name, version, _, tags = parse_wheel_filename(wheel.name)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if f'\nversion = "{version}"\n' not in project:
        yield f"is of version {version}, pyproject.toml is not"
    for tag in tags:
        if (tag.interpreter, tag.abi) != ("py3", "none") or not TAG.fullmatch(tag.platform):
            yield f"has the tag {tag}, which serves less than it should, or no index takes it"
    pair = {"fusewright": "fusewright-cu13", "fusewright-cu13": "fusewright"}[name]
    if f"Requires-Dist: {pair}=={version}" not in metadata(wheel):
        yield f"does not ask for {pair}=={version}"
    size = wheel.stat().st_size
    if size > BUDGET[name]:
        yield f"is {size:,} bytes large, may be {BUDGET[name]:,}"
    found = list(libraries(wheel))
    if not found:
        yield "holds no library"
    for library, binary in found:
        yield from needs(library, binary)
    yield from strangers(wheel, update)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check wheels before they are published.")
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--update", action="store_true", help="write the lists of contents anew")
    args = parser.parse_args()
    wrong = 0
    for wheel in args.wheels:
        found = list(complaints(wheel, args.update))
        wrong += len(found)
        for text in found:
            print(f"{wheel.name} {text}")
        if not found:
            print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, right")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
