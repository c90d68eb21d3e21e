"""Builds the Objective-C++ host code on Linux, the mock of Metal that it runs against, and a device
"mps" for a CPU build of torch. What is there already for the same sources is taken.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

from emulator.build import COMPILER, KERNELS, ROOT, Builder

HERE = Path(__file__).resolve().parent
EMULATOR = HERE.parent / "emulator"
STUBS = HERE.parent / "sdk_stubs"
GNUSTEP = Path("/usr/include/GNUstep")
# GCC's Objective-C runtime lies in the folders of GCC's versions.
LIBOBJC = sorted(path.parents[2] for path in Path("/usr/lib/gcc").glob("*/*/include/objc/objc.h"))
OPERATORS = sorted(p.stem for p in KERNELS.glob("*.mm"))
PACKAGES = "clang-19 lld-19 libgnustep-base-dev libobjc-12-dev libblocksruntime-dev"

_OBJECTIVE_C = [
    "-fobjc-runtime=gcc", "-fblocks", "-fexceptions", "-fobjc-exceptions",
    "-fconstant-string-class=NSConstantString",
    "-I", str(STUBS / "metal"), "-isystem", str(HERE / "gnustep"), "-isystem", str(GNUSTEP),
    *[f"-isystem{folder}/include" for folder in LIBOBJC[-1:]],
]  # fmt: skip
_TORCH = Path(torch.__file__).parent / "lib"
_TORCH_HEADERS = [flag for path in include_paths() for flag in ("-isystem", path)]


@dataclass
class Host:
    """The libraries of a process that has the device.

    Attributes:
        device: torch's device "mps", with the mock of Metal.
        library: the operators, `fusewright_metal`.
        kernels: the emulated Metal kernels.
    """

    device: Path
    library: Path
    kernels: list[Path]


def missing() -> str | None:
    """What this machine lacks, or None."""
    if sys.platform != "linux":
        return "the mock of Metal is for Linux"
    if shutil.which(COMPILER) is None or not (GNUSTEP.exists() and LIBOBJC):
        return f"{COMPILER} or GNUstep is missing: apt-get install {PACKAGES}"
    return None


class HostBuilder:
    """Compiles into the folder of the emulator's builder, which compiles the kernels."""

    def __init__(self, emulator: Builder) -> None:
        self.emulator = emulator
        self.cache = emulator.cache

    def host(self, room: Path = KERNELS, operators: Sequence[str] = OPERATORS) -> Host:
        """Everything, with the host code of `room` for some operators."""
        return Host(self.device(), self.library(room, operators), self.kernels(operators))

    def kernels(self, operators: Iterable[str]) -> list[Path]:
        """The emulated kernels; the gradient of a Haar transform is its inverse's."""
        names = set(operators)
        names |= {n[1:] if n.startswith("i") else f"i{n}" for n in names if "haar" in n}
        return self.emulator.all_kernels(sorted(names))

    def library(self, room: Path, operators: Sequence[str]) -> Path:
        """The operators' library, without ARC, which GNUstep's runtime has not."""
        generated = self._generated(room, operators)
        metallib = self.cache / "mock.metallib"
        metallib.write_text("MTLB: mock\n")
        headers = sorted([*room.glob("*.h"), *room.glob("host/*.h"), *(ROOT / "src").glob("*.h")])
        flags = [
            "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
            "-Wno-unused-command-line-argument", *_OBJECTIVE_C, *_TORCH_HEADERS,
            "-DTORCH_TARGET_VERSION=0x020a000000000000", f'-DFUSEWRIGHT_METALLIB="{metallib}"',
            '-DFUSEWRIGHT_VERSION="0"', '-DFUSEWRIGHT_METAL_STANDARD="metal3.0"',
            "-I", str(room), "-I", str(ROOT / "src"), "-I", str(generated),
        ]  # fmt: skip
        sources = [room / f"{name}.mm" for name in operators]
        sources += [*room.glob("host/*.mm"), *room.glob("host/*.cpp"), generated / "register.cpp"]
        objects = self._objects(sources, flags, headers, room)
        return self._link("fusewright_metal", objects, _link_torch())

    def device(self) -> Path:
        """torch's device, and the mock."""
        mock = self._objects(
            [HERE / "mock.mm"],
            ["-std=c++17", "-O1", "-Wall", "-Wextra", *_OBJECTIVE_C, "-I", str(EMULATOR),
             "-I", str(self._args_sizes().parent)],
            [HERE / "mock.h", self._args_sizes(), *EMULATOR.glob("*.h")],
        )  # fmt: skip
        fake = self._objects(
            [HERE / "fake_mps.cpp"], ["-std=c++20", "-O0", "-w", *_TORCH_HEADERS], [HERE / "mock.h"]
        )
        runtime = [str(self.emulator.runtime()), f"-Wl,-rpath,{self.cache}"]
        return self._link("fake_mps", [*fake, *mock], [*_link_torch(), *runtime])

    def _generated(self, room: Path, operators: Sequence[str]) -> Path:
        out = self.cache / f"generated-{_key(operators)}"
        if not out.exists():
            command: list[str | Path] = [
                sys.executable,
                ROOT / "cmake" / "generate_registration.py",
            ]
            command += ["--backend", "metal", "--ops", ROOT / "python" / "fusewright" / "ops"]
            _run([*command, "--out", out, *(room / f"{name}.mm" for name in operators)])
        return out

    def _args_sizes(self) -> Path:
        """A header: for every kernel function, how large the struct is that it declares."""
        entries = []
        for file in sorted(KERNELS.glob("*.metal")):
            includes = [f"-I{folder}" for folder in (EMULATOR / "include", EMULATOR, KERNELS)]
            metal = ["-E", "-P", "-x", "c++", "-D__METAL_VERSION__=300"]
            code = _run([COMPILER, *metal, *includes, file])
            for kernel in re.finditer(r"\[\[\s*kernel\b[^]]*\]\]\s*void\s+(\w+)\s*\(", code):
                struct = re.search(r"(Fw\w+Args)\s*&", code[kernel.end() :])
                if struct is not None:
                    entries.append(f'{{"{kernel[1]}", sizeof({struct[1]})}},')
        text = f'#include "{KERNELS}/args.h"\n#define FW_ARGS_SIZES {" ".join(entries)}\n'
        header = self.cache / f"args-{_key(text)}" / "args_sizes.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)
        return header

    def _objects(
        self,
        sources: Iterable[Path],
        flags: Sequence[str],
        headers: Iterable[Path],
        room: Path = KERNELS,
    ) -> list[Path]:
        """The objects of sources, made anew where they, their headers or the flags are others.

        Rooms of one content have the same objects.
        """
        plain = [flag.replace(str(room), "") for flag in flags]
        shared = _key(plain, *(h.read_text() for h in headers))
        launcher = ["ccache"] if shutil.which("ccache") else []

        def compile_one(source: Path) -> Path:
            target = self.cache / f"{source.stem}-{_key(shared, source.read_text())}.o"
            if not target.exists():
                _run([*launcher, COMPILER, "-fPIC", *flags, "-c", source, "-o", target])
            return target

        with ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(compile_one, sources))

    def _link(self, name: str, objects: Sequence[Path], flags: Sequence[str]) -> Path:
        objects = [*objects, *self._objects([HERE / "gnustep" / "personality.cpp"], ["-O1"], [])]
        target = self.cache / f"lib{name}-{_key([o.name for o in objects], flags)}.so"
        if not target.exists():
            runtime = [f"-L{LIBOBJC[-1]}", "-lgnustep-base", "-lobjc"]
            _run([COMPILER, "-shared", *objects, *flags, *runtime, "-lBlocksRuntime", "-o", target])
        return target


def _link_torch() -> list[str]:
    return [f"-Wl,-rpath,{_TORCH}", f"-L{_TORCH}", "-ltorch_cpu", "-lc10"]


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _run(command: Sequence[str | Path]) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
