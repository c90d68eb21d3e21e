"""The Objective-C++ host code runs on Linux: the operators' own tests, on a device "mps" whose Metal
is a mock and whose kernels are emulated (host/), and deliberate faults, each of which shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from host import build
from host.build import Host, HostBuilder

HERE = Path(__file__).resolve().parent
ROOT = build.ROOT
SKIPS = {"Metal has no float64", "there are Metal kernels"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(build.missing() is not None, reason=build.missing() or ""),
]


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> HostBuilder:
    return HostBuilder(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def host(builder: HostBuilder) -> Host:
    return builder.host()


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


def run_tests(host: Host, *arguments: str) -> int:
    """Run tests on the device; all must pass but those of float64. Their number."""
    options = ["-q", "-p", "host.plugin", "-p", "no:cacheprovider", "-k", "metal"]
    result = python(host, "-m", "pytest", *options, *arguments)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", result.stdout, flags=re.M)
    assert set(reasons) <= SKIPS, result.stdout
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None, result.stdout
    return int(passed[1])


def test_what_only_this_device_can_get_wrong(host: Host) -> None:
    assert run_tests(host, "tests/test_metal.py") > 100


@pytest.mark.parametrize("name", build.OPERATORS)
def test_the_operators_own_tests(name: str, host: Host) -> None:
    assert run_tests(host, f"tests/ops/test_{name}.py") >= 5


class Fault(NamedTuple):
    """A change of the host code, and what then is told; None: wrong numbers."""

    file: str
    right: str
    wrong: str
    told: str | None


END = "[encoder endEncoding];"
FAULTS = {
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
        "threads a threadgroup, must be 1 to 1024",
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
    "a storage offset forgotten": Fault("host/encode.mm", "offset:offset", "offset:0", None),
    "one 16-bit type for the other": Fault(
        "host/dtype.h", 'return "_bfloat";', 'return "_half";', None
    ),
}

CHECK = """
import host.plugin, torch
from check import check_values
from fusewright.ops.haar2d import HAAR2D
around = torch.randn(3, 3, 9, 7, device="mps")
check_values(HAAR2D, (around[1:], 9, 7), "metal")
check_values(HAAR2D, HAAR2D.sample(dtype=torch.bfloat16, device="mps"), "metal")
"""


def check_haar(builder: HostBuilder, room: Path) -> subprocess.CompletedProcess[str]:
    built = Host(builder.device(), builder.library(room, ["haar2d"]), builder.kernels(["haar2d"]))
    return python(built, "-c", CHECK)


def copy_room(to: Path) -> Path:
    return Path(shutil.copytree(build.KERNELS, to))


def test_without_a_fault(builder: HostBuilder, tmp_path: Path) -> None:
    result = check_haar(builder, copy_room(tmp_path / "room"))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_shows(fault: str, builder: HostBuilder, tmp_path: Path) -> None:
    file, right, wrong, told = FAULTS[fault]
    room = copy_room(tmp_path / "room")
    text = (room / file).read_text()
    assert text.count(right) == 1, "the fault does not fit the source any more"
    (room / file).write_text(text.replace(right, wrong))
    result = check_haar(builder, room)
    assert result.returncode != 0
    assert (told or "AssertionError: haar2d y: relative error") in result.stderr, result.stderr


def test_nothing_is_missing(host: Host) -> None:
    """The operators' list is that of the kernels, and so is that of what was built."""
    assert build.OPERATORS == sorted(p.stem for p in build.KERNELS.glob("*.metal"))
    assert len(host.kernels) == len(build.OPERATORS)


def test_files_are_compiled_once(builder: HostBuilder, host: Host) -> None:
    before = files_of(builder.cache)
    assert builder.host() == host
    assert files_of(builder.cache) == before


def files_of(folder: Path) -> Sequence[Path]:
    return sorted(folder.iterdir())
