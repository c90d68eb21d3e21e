"""The emulator reports what a GPU would do silently wrong, and refuses what Metal refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from emulator.arguments import make
from emulator.build import KERNELS, Builder, CompileError
from emulator.generate import NotMetalError

_FRAME = """
#include "dtype.h"
template <typename T>
[[kernel%s]] void probe(const device T* x [[buffer(0)]], device T* y [[buffer(1)]],
                      constant FwHaarArgs& args [[buffer(2)]],
                      threadgroup float* shared [[threadgroup(0)]],
                      uint i [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]],
                      uint group [[threadgroup_position_in_grid]]) {
    %s
}
FW_KERNEL("probe_float", probe, float)
"""
_USED = "(void)x; (void)y; (void)args; (void)shared; (void)i; (void)lane; (void)group;"


@pytest.fixture
def run(metal: Any, builder: Builder, tmp_path: Path) -> Any:
    """Runs the body of a kernel on 8 floats, in two threadgroups of 64 threads."""
    for header in ("args.h", "dtype.h"):
        shutil.copy(KERNELS / header, tmp_path)

    def launch(
        body: str,
        flavour: str = "plain",
        threads: int = 64,
        memory: int = 256,
        schedule: str = "in_order",
        attributes: str = "",
    ) -> torch.Tensor:
        (tmp_path / "probe.metal").write_text(_FRAME % (attributes, _USED + body))
        metal.load([builder.kernels("probe", flavour, tmp_path)])
        x, y = torch.arange(8.0), torch.full((8,), -1.0)
        metal.schedule = schedule
        try:
            sizes = ([2, 1, 1], [threads, 1, 1], memory)
            metal.run("probe_float", sizes, [x, y], make("FwHaarArgs", planes=7))
        finally:
            metal.schedule = "in_order"
        return y

    return launch


def test_a_kernel_runs(run: Any) -> None:
    y = run("if (group == 0 && i < 8) y[i] = 2 * x[i] + float(args.planes);")
    assert torch.equal(y, 2 * torch.arange(8.0) + 7)


@pytest.mark.parametrize("schedule", ["in_order", "reversed", "random"])
def test_barriers_and_simdgroups(run: Any, schedule: str) -> None:
    body = """
    shared[i] = simd_sum(float(i));
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (group == 0 && i < 8) y[i] = shared[i] + shared[63 - i];
    """
    assert torch.equal(run(body, schedule=schedule), torch.full((8,), float(sum(range(64)))))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            "if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);",
            r"divergent flow: thread 0 waits at threadgroup_barrier, .*probe.metal:\d+, thread 32 "
            "has ended",
        ),
        ("if (lane < 7) y[0] = simd_sum(1.0f);", "divergent flow: thread 0 waits at simd_sum"),
        (
            "if (i == 0) threadgroup_barrier(mem_flags::mem_threadgroup);\n"
            "else threadgroup_barrier(mem_flags::mem_threadgroup);",
            "divergent flow",
        ),
        ("if (i == 0) y[8] = 1;", "wrote outside buffer 1 of 32 bytes"),
        ("if (i == 0) y[-1] = 1;", "wrote outside buffer 1"),
        ("shared[i + 1] = 1;", "wrote past the 256 bytes of threadgroup memory"),
    ],
)
def test_faults_are_errors(run: Any, body: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=r"\[probe_float\] " + text):
        run(body)


def test_what_is_not_written_is_nan(run: Any) -> None:
    """Threadgroup memory before its first write, and what lies behind a buffer."""
    assert run("if (i < 8) y[i] = shared[i];").isnan().all()
    assert run("if (i < 8) y[i] = x[i + 8];").isnan().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"threads": 1056}, "1056 threads in a threadgroup, must be from 1 to 1024"),
        (
            {"attributes": ", max_total_threads_per_threadgroup(32)"},
            "64 threads in a threadgroup, must be from 1 to 32",
        ),
        ({"memory": 32784}, "32784 bytes of threadgroup memory, must be a multiple of 16 up to 32"),
        ({"memory": 0}, "takes threadgroup memory, and none is set"),
    ],
)
def test_sizes_that_no_device_takes(run: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        run("", **options)


def test_wrong_bindings(metal: Any, run: Any) -> None:
    run("")
    args = make("FwHaarArgs")
    sizes = ([1, 1, 1], [1, 1, 1], 16)
    x = torch.zeros(1)
    with pytest.raises(RuntimeError, match="buffer 2 is not bound"):
        metal.run("probe_float", sizes, [x], args)
    with pytest.raises(RuntimeError, match="has no buffer 3"):
        metal.run("probe_float", sizes, [x, x, x], args)
    with pytest.raises(RuntimeError, match="there is no such kernel"):
        metal.run("probe_double", sizes, [x, x], args)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("double d = 1; y[0] = d;", "metal_has_no_double"),
        ("y[0] = exp(x[0]);", "double"),  # the C library's; ours are precise::exp and such
        ("thread float* p = y; p[0] = 1;", r"address_space\([12]\)"),
        ("const device float* p = shared; y[0] = p[0];", r"address_space\([12]\)"),
        ("args.planes = 1;", "const"),
        ("threadgroup float own[4]; own[i] = 1;", "automatic variable"),
        ("y[0] = float(min(i, 3));", "ambiguous"),
        ("if constexpr (sizeof(T) == 4) y[0] = 1;", "C..17 extension"),
        ("T unused = x[0];", "unused"),
    ],
)
def test_what_does_not_compile(run: Any, body: str, text: str) -> None:
    with pytest.raises(CompileError, match=text):
        run(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("auto f = [&](int a) { return a; }; y[0] = f(1);", "a lambda"),
        ("int kernel = 1; y[0] = kernel;", "a keyword as a name"),
        ("y[0] = *new float(1);", "memory of its own"),
        ("goto end; end: y[0] = 1;", "a jump"),
        ("bfloat b = 1;", "a bfloat"),
    ],
)
def test_what_metal_has_not(run: Any, body: str, text: str) -> None:
    with pytest.raises(NotMetalError, match=text):
        run(body)


def test_a_parameter_needs_an_attribute(builder: Builder, tmp_path: Path, run: Any) -> None:
    text = (_FRAME % ("", _USED)).replace(" [[buffer(1)]]", "")
    (tmp_path / "probe.metal").write_text(text)
    with pytest.raises(NotMetalError, match="a parameter without an attribute: .*T. y"):
        builder.kernels("probe", folder=tmp_path)
