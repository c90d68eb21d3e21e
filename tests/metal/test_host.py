"""The Objective-C++ host code runs on Linux: the operators' own tests, on a device "mps" whose
Metal is a mock and whose kernels are emulated (host/), and deliberate faults, each of which shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from emulator.build import KERNELS, ROOT, Builder
from host import build
from host.build import Host, HostBuilder

HERE = Path(__file__).resolve().parent
SKIPS = {"Metal has no float64", "there are Metal kernels"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(build.missing() is not None, reason=build.missing() or ""),
]


@pytest.fixture(scope="session")
def host_builder(builder: Builder) -> HostBuilder:
    return HostBuilder(builder)


@pytest.fixture(scope="session")
def host(host_builder: HostBuilder) -> Host:
    return host_builder.host()


def python(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that has the device."""
    paths = [*sys.path, str(HERE), str(ROOT / "tests"), str(ROOT / "tests" / "ops")]
    files = [host.device, host.library, *host.kernels]
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "FUSEWRIGHT_FAKE_MPS": "\n".join(map(str, files)),
            "PYTHONPATH": os.pathsep.join(paths),
        },
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


def run_tests(host: Host, *arguments: str, only: str = "metal") -> int:
    """Run tests on the device; all must pass but those of float64. Their number."""
    options = ["-q", "-p", "host.plugin", "-p", "no:cacheprovider", "-k", only]
    result = python(host, "-m", "pytest", *options, *arguments)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", result.stdout, flags=re.M)
    assert set(reasons) <= SKIPS, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None, result.stdout
    return int(passed[1])


def test_what_only_this_device_can_get_wrong(host: Host) -> None:
    assert run_tests(host, "tests/test_metal.py") > 100


# Operators that share a process, and what of their tests runs: of causal_conv1d's many widths and
# lengths, whose kernels test_kernels.py runs, the host knows no more than these.
GROUPS = {
    "haar": "metal",
    "norm": "metal",
    "wtconv": "metal",
    "causal": "metal and (True-True-4- or False-5- or -129] or not (and_widths or test_lengths))",
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_operators_own_tests(group: str, host: Host) -> None:
    files = [f"tests/ops/test_{name}.py" for name in build.OPERATORS if group in name]
    assert run_tests(host, *files, only=GROUPS[group]) > 4 * len(files)


class Fault(NamedTuple):
    """A change of the host code, and what then is told; None: wrong numbers."""

    file: str
    right: str
    wrong: str
    told: str | None


END = "[encoder endEncoding];"
FAULTS = {  # each in a copy of kernels_metal/
    "a wrong buffer index": Fault(
        "host/encode.mm", "length:size atIndex:index]", "length:size atIndex:index + 1]", "buffer 2"
    ),
    "arguments cut short": Fault(
        "host/encode.mm", "length:size atIndex", "length:size - 8 atIndex", "bytes, must have"
    ),
    "2048 threads": Fault(
        "host/encode.mm",
        "threadsPerThreadgroup:size_of(threads)",
        "threadsPerThreadgroup:MTLSizeMake(2048, 1, 1)",
        "2048 x 1 x 1 threads a threadgroup, must be 1 to 256",
    ),
    "a misspelt kernel": Fault(
        "haar2d.mm", '"haar2d_forward"', '"haar2d_foward"', "there is no Metal kernel haar2d_foward"
    ),
    "an encoder that does not end": Fault("host/encode.mm", END, "", "endEncoding is missing"),
    "a commit": Fault(
        "host/encode.mm",
        END,
        f"{END} [torch::mps::get_command_buffer() commit];",
        "an operator commits",
    ),
    "a wait": Fault(
        "host/encode.mm",
        END,
        f"{END} [torch::mps::get_command_buffer() waitUntilCompleted];",
        "an operator waits",
    ),
    "a command buffer asked for before the queue is held": Fault(
        "host/encode.mm",
        "std::exception_ptr error;",
        "std::exception_ptr error; (void)torch::mps::get_command_buffer();",
        "get_command_buffer outside torch's queue",
    ),
    "height and width exchanged": Fault(
        "host/haar.h",
        "args.stride_h = dims == 2 ? from.stride(2) : 0, args.stride_w = from.stride(dims + 1);",
        "args.stride_w = dims == 2 ? from.stride(2) : 0, args.stride_h = from.stride(dims + 1);",
        None,
    ),
    "a storage offset forgotten": Fault(
        "host/encode.mm", "offset:offset", "offset:0 & offset", None
    ),
    "one 16-bit type for the other": Fault(
        "host/dtype.h", 'return "_bfloat";', 'return "_half";', None
    ),
}


@pytest.fixture(scope="session")
def told(host_builder: HostBuilder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The error of every fault, and of the host code as it is."""
    folder = tmp_path_factory.mktemp("faults")

    def built(name: str) -> Path:
        room = Path(shutil.copytree(KERNELS, folder / f"room-{name.replace(' ', '-')}"))
        if name in FAULTS:
            file, right, wrong, _ = FAULTS[name]
            text = (room / file).read_text()
            assert text.count(right) == 1, f"{name} does not fit the source any more"
            (room / file).write_text(text.replace(right, wrong))
        return host_builder.library(room, ["haar2d"])

    names = ["none", *FAULTS]
    libraries = [built(name) for name in names]
    host = Host(host_builder.device(), libraries[0], host_builder.kernels(["haar2d"]))
    result = python(host, "-m", "host.trial", *map(str, libraries))
    assert result.returncode == 0, result.stderr
    return {
        name: Path(f"{library}.txt").read_text()
        for name, library in zip(names, libraries, strict=True)
    }


def test_without_a_fault(told: dict[str, str]) -> None:
    assert told["none"] == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_shows(fault: str, told: dict[str, str]) -> None:
    assert (FAULTS[fault].told or "AssertionError: haar2d y: relative error") in told[fault]


def test_nothing_is_missing(host: Host) -> None:
    """The operators' list is that of the kernels, and so is that of what was built."""
    assert sorted(p.stem for p in KERNELS.glob("*.metal")) == build.OPERATORS
    assert len(host.kernels) == len(build.OPERATORS)


def test_files_are_compiled_once(host_builder: HostBuilder, host: Host) -> None:
    before = sorted(host_builder.cache.iterdir())
    assert host_builder.host() == host
    assert sorted(host_builder.cache.iterdir()) == before
