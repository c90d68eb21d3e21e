"""The sources compile for arm64-apple-macos, with zig's clang and without an Apple SDK.

The host code does with ARC, against headers of our own (sdk_stubs/); the CPU kernels with NEON.
What they want of torch is its stable ABI and, of torch::mps, the command buffer and its queue.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parents[2]
STUBS = Path(__file__).resolve().parent / "sdk_stubs"
METAL = ROOT / "kernels_metal"
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
MPS = {"synchronize", "commit", "get_command_buffer", "get_dispatch_queue"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ziglang") is None, reason='no zig: pip install "ziglang"'),
]


class Symbol(NamedTuple):
    """A symbol of an object file; `external` ones are seen from outside, or wanted."""

    name: str
    external: bool
    defined: bool


def symbols(path: Path) -> Iterator[Symbol]:
    """The symbol table of a 64-bit Mach-O object."""
    data = path.read_bytes()
    magic, cpu, _, kind, commands = struct.unpack_from("<5I", data)
    assert (magic, cpu, kind) == (0xFEEDFACF, 0x0100000C, 1), f"{path} is no arm64 object"
    at = 32
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, at)
        if command == 2:  # LC_SYMTAB
            table, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for i in range(count):
                name, flags, section, _, _ = struct.unpack_from("<IBBHQ", data, table + 16 * i)
                end = data.index(b"\0", strings + name)
                if not flags & 0xE0:  # no debugger's entry
                    text = data[strings + name : end].decode()
                    yield Symbol(text, bool(flags & 1), bool(section))
        at += size


def generate(out: Path, backend: str, sources: list[Path], *more: str) -> Path:
    generator = ROOT / "cmake" / "generate_registration.py"
    command: list[str | Path] = [sys.executable, generator, "--backend", backend, *more]
    command += ["--out", out]
    subprocess.run([*command, "--ops", ROOT / "python/fusewright/ops", *sources], check=True)
    return out


def compile_for_macos(source: Path, out: Path, *flags: str | Path) -> set[Symbol]:
    """Compile a source, warnings being errors, and read the symbols."""
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-macos.14.0"]
    torch = [flag for path in include_paths() for flag in ("-isystem", path)]
    common = ["-std=c++17", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", ABI, *torch]
    command = [*zig, *common, "-fvisibility=hidden", *flags, "-c", source, "-o", out]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(symbols(out))


def assert_stable(found: set[Symbol]) -> None:
    """Nothing of torch but the stable ABI's C functions and torch::mps's four."""
    wanted = {s.name for s in found if not s.defined}
    mangled = {n for n in wanted if re.search(r"\d(torch|c10|at|caffe2)\d", n)}
    own = {n for n in mangled if "10fusewright" in n}
    allowed = {f"__ZN5torch3mps{len(name)}{name}Ev" for name in MPS}
    assert mangled - own <= allowed


def test_other_symbols_of_torch_are_found() -> None:
    for name in ("__ZN2at6detail11getMPSHooksEv", "__ZN5torch3mps11manual_seedEy"):
        with pytest.raises(AssertionError):
            assert_stable({Symbol(name, external=True, defined=False)})


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("metal")
    return generate(out, "metal", sorted(METAL.glob("*.mm")))


HOST = ["host/encode.mm", "wtconv2d.mm", "causal_conv1d.mm"]


@pytest.mark.parametrize("name", HOST)
def test_host_code(name: str, generated: Path, tmp_path: Path) -> None:
    flags = ["-fobjc-arc", "-fblocks", "-x", "objective-c++", f"-I{METAL}", f"-I{ROOT / 'src'}"]
    flags += [f"-I{generated}", f"-I{STUBS / 'metal'}", f"-I{STUBS / 'foundation'}"]
    found = compile_for_macos(METAL / name, tmp_path / "host.o", *flags)
    assert_stable(found)
    if name == "host/encode.mm":
        wanted = {s.name for s in found if not s.defined}
        assert {n for n in wanted if "5torch3mps" in n} == {
            "__ZN5torch3mps18get_command_bufferEv",
            "__ZN5torch3mps18get_dispatch_queueEv",
        }
        assert "_objc_retain" in wanted or any(n.startswith("_objc_retain") for n in wanted)  # ARC


def test_registration(generated: Path, tmp_path: Path) -> None:
    found = compile_for_macos(generated / "register.cpp", tmp_path / "register.o", f"-I{generated}")
    assert_stable(found)
    wanted = {s.name for s in found if not s.defined}
    assert "_torch_library_impl" in wanted or any("torch_library" in n for n in wanted)


def test_embedded_metallib(tmp_path: Path) -> None:
    metallib = tmp_path / "kernels.metallib"
    metallib.write_bytes(b"MTLB and more")
    define = f'-DFUSEWRIGHT_METALLIB="{metallib}"'
    compile_for_macos(METAL / "host/metallib.cpp", tmp_path / "m.o", define, f"-I{METAL}")
    assert metallib.read_bytes() in (tmp_path / "m.o").read_bytes()


@pytest.mark.parametrize("name", ["rms_norm", "wtconv1d"])
def test_cpu_kernels(name: str, tmp_path: Path) -> None:
    source = ROOT / "src" / "cpu" / f"{name}.cpp"
    out = generate(tmp_path / "cpu", "cpu", [source], "--isas=baseline")
    flags = ["-DFW_ISA=baseline", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
    found = compile_for_macos(source, tmp_path / "cpu.o", *flags, f"-I{ROOT / 'src'}", f"-I{out}")
    assert_stable(found)
    defined = {s.name for s in found if s.defined and s.external}
    assert any(f"8baseline{len(name)}{name}" in n for n in defined)
