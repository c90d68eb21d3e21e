"""Compiles .metal files, the emulator that runs them and the sanitizers' runner; caches by content.

A flavour is `plain`, with real address spaces, or `asan` or `tsan`, without: the sanitizers do not
follow pointers of other address spaces.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulator.generate import check_text, generate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
KERNELS = ROOT / "kernels_metal"
COMPILER = "clang++-19"
MISSING = f"{COMPILER} is not installed: apt-get install clang-19 lld-19 libclang-rt-19-dev"

_RUNTIME = ("runtime.cpp", "group.cpp", "fiber.cpp")
_COMMON = ["-fPIC", "-O1", "-g1", "-fuse-ld=lld-19", "-fno-omit-frame-pointer"]
_METAL = [
    "-std=c++14", "-Wall", "-Wextra", "-Werror", "-Wdouble-promotion", "-Wno-unknown-attributes",
    "-Wno-unused-function", "-Werror=c++17-extensions", "-Werror=c++20-extensions",
    "-fno-exceptions", "-fno-rtti",
    "-Xclang", "-cl-single-precision-constant", "-Xclang", "-ffloat16-excess-precision=none",
    "-ffp-contract=off", "--rtlib=compiler-rt", "-Wno-unused-command-line-argument",
]  # fmt: skip
_FLAVOURS = {
    "plain": ["-DFW_ADDRESS_SPACES"],
    "asan": ["-fsanitize=address"],
    "tsan": ["-fsanitize=thread"],
    "ucontext": ["-DFW_UCONTEXT"],  # of the program alone: fibers as on other processors
}
_UNINSTRUMENTED = [
    flag
    for what in ("memory-accesses", "func-entry-exit", "atomics", "memintrinsics")
    for flag in ("-mllvm", f"-tsan-instrument-{what}=0")
]


class CompileError(Exception):
    """What clang says of a source that it does not take."""


def available() -> bool:
    """Whether the compiler is there."""
    return shutil.which(COMPILER) is not None


class Builder:
    """Compiles into a folder; what is there already for the same content is taken."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def kernels(
        self, name: str, flavour: str = "plain", folder: Path = KERNELS, check: bool = True
    ) -> Path:
        """The library of the kernels of `<folder>/<name>.metal`."""
        if check:
            for file in (folder / f"{name}.metal", *folder.glob("*.h")):
                if file.name != "plan.h":
                    check_text(file.name, file.read_text())
        includes = ["-I", str(HERE), "-I", str(HERE / "include"), "-I", str(folder)]
        flags = [*_METAL, *_FLAVOURS[flavour], *includes]
        wrapper = f'#include "kernel.h"\n#include "{name}.metal"\n'
        preprocessed = _run(
            [COMPILER, "-E", "-x", "c++", "-D__METAL_VERSION__=300", *flags, "-"], wrapper
        )
        link = [] if flavour != "plain" else [str(self.runtime()), f"-Wl,-rpath,{self.cache}"]
        return self._compile(
            f"{name}.so", {f"{name}.cpp": generate(preprocessed)}, [*flags, "-shared", *link]
        )

    def all_kernels(self, names: Iterable[str], flavour: str = "plain") -> list[Path]:
        """The libraries of several files, compiled side by side."""
        if flavour == "plain":
            self.runtime()  # once, before they ask for it together
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return list(pool.map(lambda name: self.kernels(name, flavour), names))

    def runtime(self) -> Path:
        """The shared library that runs threadgroups."""
        return self._compile("runtime.so", self._sources(_RUNTIME), ["-std=c++17", "-shared"])

    def module(self) -> Path:
        """The Python module, in a folder of its own: its file has the module's name."""
        import pybind11

        flags = [
            "-std=c++17",
            "-O0",
            "-shared",
            "-fvisibility=hidden",
            "-I",
            pybind11.get_include(),
        ]
        flags += ["-I", sysconfig.get_paths()["include"], "-I", str(KERNELS)]
        flags += [str(self.runtime()), f"-Wl,-rpath,{self.cache}"]
        built = self._compile("module.so", self._sources(("module.cpp",)), flags)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        named = built.with_suffix("") / f"fusewright_metal_emulator{suffix}"
        if not named.exists():
            named.parent.mkdir(exist_ok=True)
            scratch = named.with_suffix(f".{os.getpid()}")
            shutil.copyfile(built, scratch)
            scratch.replace(named)
        return named

    def replay(self, flavour: str) -> Path:
        """The program that runs a recording under a sanitizer."""
        flags = ["-std=c++17", "-rdynamic"]
        if flavour == "tsan":
            # the scheduler would hide the races of what it schedules
            flags += ["-DFW_TSAN", *_UNINSTRUMENTED]
        sources = self._sources((*_RUNTIME, "replay.cpp"))
        return self._compile("replay", sources, [*flags, *_FLAVOURS[flavour]])

    @staticmethod
    def _sources(names: Iterable[str]) -> dict[str, str]:
        return {name: (HERE / name).read_text() for name in names}

    def _compile(self, name: str, sources: dict[str, str], flags: Sequence[str]) -> Path:
        command = [COMPILER, *_COMMON, *flags]
        headers = "".join(p.read_text() for p in (*HERE.glob("*.h"), KERNELS / "plan.h"))
        key = hashlib.sha256(repr((command, sources, headers)).encode()).hexdigest()[:16]
        stem, _, suffix = name.partition(".")
        target = self.cache / f"{stem}-{key}{'.' + suffix if suffix else ''}"
        if target.exists():
            return target
        folder = self.cache / f"{stem}-{key}.{os.getpid()}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in sources.items():
            (folder / file).write_text(text)
        scratch = folder / name
        _run([*command, "-I", str(HERE), *(str(folder / s) for s in sources), "-o", str(scratch)])
        scratch.replace(target)
        shutil.rmtree(folder)
        return target


def _run(command: Sequence[str], text: str | None = None) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CompileError(result.stderr)
    return result.stdout
