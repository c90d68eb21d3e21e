"""Every kernel under AddressSanitizer and ThreadSanitizer, on launches recorded from the operators.

The sanitized program runs them without Python: each buffer in memory of its own that ends where the
tensor's ends, each thread of a threadgroup as one that happens before no other but by a barrier.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import CASES, DTYPES, Options
from emulator.build import Builder
from emulator.device import Call, write_recording
from emulator.fixtures import NAMES
from mutations import MUTATIONS

FLAVOURS = ["asan", "tsan"]
# Those with few threads: a sanitizer's cost is by thread.
_SMALL: dict[str, list[Options]] = {
    name: cases[:4] if "wtconv" not in name else cases[:3] for name, cases in CASES.items()
}
_SMALL["wtconv2d"] = [
    *_SMALL["wtconv2d"],
    {"shape": (1, 1, 9, 100), "levels": 1, "kernel": 31},
    {"shape": (1, 1, 3, 4), "levels": 0, "kernel": 95},
]


def record(metal: Any, emulated: Any, name: str, cases: Sequence[Options]) -> list[Call]:
    """The launches of the forward and backward of an operator, in turn for each dtype."""
    calls: list[Call] = []
    metal.recording = calls
    try:
        for i, options in enumerate(cases):
            op = emulated[name]
            args = op.sample(**{"dtype": DTYPES[i % 3], **options})
            leaves = [
                t.requires_grad_(op.functions is not None)
                for a in args
                for t in (a if isinstance(a, list) else [a])
                if isinstance(t, torch.Tensor) and t.is_floating_point()
            ]
            y = op(*args, backend="emulator")
            y = y if isinstance(y, torch.Tensor) else y[0]
            if op.functions is not None:
                torch.autograd.grad(y.float().square().sum(), leaves, allow_unused=True)
    finally:
        metal.recording = None
    return calls


def replay(
    builder: Builder, flavour: str, recording: Path, libraries: Sequence[Path], schedule: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [builder.replay(flavour), schedule, recording, *libraries],
        capture_output=True,
        text=True,
        check=False,
        env={"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"},
    )


@pytest.fixture(scope="module")
def recording(metal: Any, emulated: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    calls = [c for name in CASES for c in record(metal, emulated, name, _SMALL[name])]
    path = tmp_path_factory.mktemp("recording") / "launches"
    write_recording(path, calls)
    return path


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_kernels_are_clean(builder: Builder, recording: Path, flavour: str) -> None:
    libraries = builder.all_kernels(NAMES, flavour)
    builder.replay(flavour)
    with ThreadPoolExecutor() as pool:
        runs = pool.map(
            lambda schedule: replay(builder, flavour, recording, libraries, schedule),
            ["in_order", "random"],
        )
        for result in runs:
            assert result.returncode == 0, result.stderr[:4000]
            assert "launches" in result.stdout


def test_fibers_without_assembly(builder: Builder, recording: Path) -> None:
    """What processors other than x86-64 switch with."""
    libraries = builder.all_kernels(NAMES)
    result = replay(builder, "ucontext", recording, libraries, "reversed")
    assert result.returncode == 0, result.stderr[:4000]


@pytest.mark.parametrize(
    ("what", "flavour", "report"),
    [
        ("missing bounds check: the last column", "asan", "heap-buffer-overflow"),
        ("a circular state that does not wrap", "asan", "heap-buffer-overflow"),
        ("filters read the region while it is loaded", "tsan", "data race"),
        ("missing barrier in the sum over a threadgroup", "tsan", "data race"),
        ("a sum's scratch is written", "tsan", "data race"),
    ],
)
def test_faults_are_found(
    metal: Any,
    emulated: Any,
    builder: Builder,
    tmp_path: Path,
    what: str,
    flavour: str,
    report: str,
) -> None:
    (mutation,) = [m for m in MUTATIONS if what in m.what]
    calls = record(metal, emulated, mutation.op, mutation.cases[:2])
    write_recording(tmp_path / "launches", calls)
    folder = mutation.apply(tmp_path)
    names = {c.kernel.split("_forward")[0].split("_backward")[0] for c in calls}
    libraries = [builder.kernels(name, flavour, folder) for name in sorted(names)]
    result = replay(builder, flavour, tmp_path / "launches", libraries, "in_order")
    assert result.returncode != 0
    assert report in result.stderr
