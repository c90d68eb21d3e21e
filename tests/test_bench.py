"""The bench package: what is verified, timed and written, and that a wrong result has no speed."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

import fusewright
from fusewright import ArgumentError
from fusewright.bench import Case, Peer, machine, report, session, suite
from fusewright.bench.contest import Options, Outcome, hold, parse_passes
from fusewright.bench.rows import Row, moves, read_csv, write_csv
from fusewright.bench.timing import Times, cpu_sampler, measure

CPU = torch.device("cpu")
FAST = Options(CPU, seconds=0.05, compile=False)
HERE = machine.Machine("a cpu", 1, "AVX2", "2.13", "0.1", "abc")


def case(**changes: Any) -> Case:
    """rms_norm of 8 x 16, right unless a change makes it wrong."""
    right: dict[str, Any] = {
        "op": "rms_norm",
        "shape": "8x16",
        "dtype": torch.float32,
        "make": lambda device: (torch.randn(8, 16, device=device, requires_grad=True),),
        "ours": lambda x: fusewright.rms_norm(x, eps=1e-6),
        "eager": lambda x: F.rms_norm(x, (16,), eps=1e-6),
        "bytes": 1024,
        "bytes_backward": 2560,
    }
    return Case(**{**right, **changes})


def held(**changes: Any) -> Outcome:
    return hold(case(**changes), FAST, HERE, lambda _: None)


def row(**changes: Any) -> Row:
    (first, *_) = held(bytes_backward=None).rows
    return replace(first, **changes)


def test_every_provider_has_a_row_in_every_direction() -> None:
    outcome = held(peers={"twice": Peer(lambda x: 2 * F.rms_norm(x, (16,), eps=1e-6) / 2)})
    assert not outcome.faults
    found = {(r.provider, r.direction) for r in outcome.rows}
    providers, directions = ("fusewright", "eager", "twice"), ("forward", "forward+backward")
    assert found == {(p, d) for p in providers for d in directions}
    for r in outcome.rows:
        assert 0 < r.p20_ms <= r.p50_ms <= r.p80_ms
        assert r.floor_ms > 0
        assert r.backend == ("cpu" if r.provider == "fusewright" else "")
        assert (r.op, r.shape, r.dtype) == ("rms_norm", "8x16", "fp32")
        assert r.bytes == (1024 if r.direction == "forward" else 2560)


def test_without_a_backward() -> None:
    assert {r.direction for r in held(bytes_backward=None).rows} == {"forward"}


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        (lambda x: fusewright.rms_norm(x, eps=0.1), "output 0 is off by"),
        (lambda x: fusewright.rms_norm(x, eps=1e-6)[:4], "has shape (4, 16), eager's has (8, 16)"),
        (lambda x: (fusewright.rms_norm(x, eps=1e-6), x), "gives 3 results, eager gives 2"),
        (lambda x: fusewright.rms_norm(x * float("nan")), "output 0 is off by nan"),
        (lambda x: F.rms_norm(x, (16,)).detach() + 0 * x, "gradient 0 is off by"),
        (lambda x: fusewright.rms_norm(x, x), "ArgumentError: [rms_norm] weight.shape is (8, 16)"),
    ],
)
def test_a_wrong_result_has_no_speed(ours: Any, text: str) -> None:
    outcome = held(ours=ours)
    assert text in outcome.faults["fusewright"]
    assert not outcome.rows, "not even the others' speed is reported"


@pytest.mark.parametrize(
    ("step", "text"),
    [(1.0, None), (0.0, "gives 1 results, eager gives 2"), (2.0, "input 1, written to, is off by")],
)
def test_an_input_that_is_written_to_is_a_result(step: float, text: str | None) -> None:
    def ours(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        count.data.add_(step)  # as a kernel does, unseen by autograd
        return fusewright.rms_norm(x, eps=1e-6)

    def eager(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        count.add_(1.0)
        return F.rms_norm(x, (16,), eps=1e-6)

    outcome = held(
        make=lambda device: (torch.randn(8, 16, device=device), torch.ones(4, device=device)),
        ours=ours,
        eager=eager,
        bytes_backward=None,
    )
    fault = outcome.faults.get("fusewright")
    assert fault is None if text is None else text in str(fault)


def test_a_wrong_peer_is_left_out() -> None:
    outcome = held(peers={"wrong": Peer(lambda x: x)})
    assert "off by" in outcome.faults["wrong"]
    assert {r.provider for r in outcome.rows} == {"fusewright", "eager"}


def test_a_peer_known_to_be_wrong_is_timed_and_marked() -> None:
    outcome = held(peers={"off": Peer(lambda x: x, wrong=True)})
    assert "off by" in outcome.faults["off"]
    assert {r.provider for r in outcome.rows} == {"fusewright", "eager", "off (wrong)"}
    group = {r.provider: r for r in outcome.rows if r.direction == "forward"}
    group["off (wrong)"] = replace(group["off (wrong)"], p50_ms=1e-9)
    assert report.speedup(group) == group["eager"].p50_ms / group["fusewright"].p50_ms

    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    outcome = held(peers={"off": Peer(broken, wrong=True)})
    assert outcome.faults["off"] == "RuntimeError: no kernel"
    assert {r.provider for r in outcome.rows} == {"fusewright", "eager"}

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no gradient")

    outcome = held(peers={"half": Peer(Half.apply, wrong=True)})
    assert outcome.faults["half"] == "RuntimeError: no gradient"
    assert [r.direction for r in outcome.rows if r.provider == "half (wrong)"] == ["forward"]


def test_a_peer_without_gradients_is_in_the_forward() -> None:
    outcome = held(peers={"half": Peer(lambda x: F.rms_norm(x.detach(), (16,)), backward=False)})
    assert not outcome.faults
    assert [r.direction for r in outcome.rows if r.provider == "half"] == ["forward"]


def test_a_peer_that_is_not_installed_is_told() -> None:
    def absent(x: torch.Tensor) -> torch.Tensor:
        import no_such_package  # type: ignore[import-not-found]

        return no_such_package.run(x)

    outcome = held(peers={"absent": Peer(absent)})
    assert "no_such_package" in outcome.missing["absent"]
    assert not outcome.faults
    assert {r.provider for r in outcome.rows} == {"fusewright", "eager"}


def test_a_part_of_the_work_is_the_floor() -> None:
    slow = held(floor=lambda x: [x + 1 for _ in range(2000)], bytes_backward=None)
    assert all(r.floor_ms > r.p50_ms for r in slow.rows)


def test_csv(tmp_path: Path) -> None:
    """The columns are those of the design, and a run can be read again."""
    path = tmp_path / "rows.csv"
    rows = held().rows
    write_csv(path, rows)
    with path.open(newline="") as file:
        header = next(csv.reader(file))
    asked = ["op", "backend", "pass", "shape", "dtype", "p20_ms", "p50_ms", "p80_ms", "peak_mb"]
    assert set(header) >= {*asked, "device", "torch", "commit", "provider", "floor_ms"}
    again = read_csv(path)
    assert [r.key for r in again] == [r.key for r in rows]
    for a, b in zip(again, rows, strict=True):
        assert a.p50_ms == pytest.approx(b.p50_ms, rel=1e-3)
    path.write_text("op,shape\nrms_norm,8x16\n")
    with pytest.raises(ArgumentError, match="without backend, pass"):
        read_csv(path)


def test_moves_are_beyond_the_noise() -> None:
    old = row(p20_ms=1.0, p50_ms=1.1, p80_ms=1.2, floor_ms=0.5)
    same = replace(old, p20_ms=1.15, p50_ms=1.3, p80_ms=1.4)  # the ranges overlap
    near = replace(old, p20_ms=1.21, p50_ms=1.13, p80_ms=1.3)  # 3 % is nothing
    slow = replace(old, p20_ms=2.0, p50_ms=2.2, p80_ms=2.4, floor_ms=1.0)
    other = replace(slow, shape="16x16")
    assert not moves([old], [same])
    assert not moves([old], [near])
    assert not moves([old], [other])
    (move,) = moves([old], [slow])
    assert move.ratio == pytest.approx(2.0)
    assert move.floor_ratio == pytest.approx(2.0)


def test_tables() -> None:
    rows = held().rows
    text = io.StringIO()
    console = Console(file=text, width=140)
    report.print_tables(console, rows)
    report.print_machine(console, HERE)
    report.print_moves(
        console, rows, [replace(r, p20_ms=9e6, p50_ms=9e6, p80_ms=9e6) for r in rows]
    )
    for word in ("rms_norm", "8x16", "fwd+bwd", "speed-up", "a cpu, AVX2, 1 threads", "4 of 4"):
        assert word in text.getvalue()
    by_provider = {r.provider: r for r in rows if r.direction == "forward"}
    factor = report.speedup(by_provider)
    assert factor == by_provider["eager"].p50_ms / by_provider["fusewright"].p50_ms
    assert report.speedup({"eager": by_provider["eager"]}) is None


def test_timing() -> None:
    assert Times.of([1e-3, 3e-3, 2e-3]).p50 == pytest.approx(2.0)
    counts = {"a": 0, "b": 0}

    def call(name: str) -> None:
        counts[name] += 1

    between: list[int] = []
    calls = {name: lambda name=name: call(name) for name in counts}
    times = measure(calls, CPU, 0.02, lambda: between.append(1))
    assert set(times) == set(counts)
    assert all(counts.values())
    assert len(between) >= 10, "at least five samples of each"
    assert 0 < cpu_sampler(lambda: None)() < 1e-4


def test_choices() -> None:
    assert parse_passes("backward, forward") == ["forward+backward", "forward"]
    assert suite.parse_dtypes("fp32,bfloat16") == [torch.float32, torch.bfloat16]
    with pytest.raises(ArgumentError, match="--passes is 'sideways', must be among"):
        parse_passes("sideways")
    with pytest.raises(ArgumentError, match="--dtype is 'fp8', must be among fp64"):
        suite.parse_dtypes("fp8")
    with pytest.raises(ArgumentError, match="--device is 'tpu', must be among cpu"):
        suite.parse_device("tpu")
    with pytest.raises(ArgumentError, match="must be a folder of benchmark files"):
        suite.files(Path("nowhere"), [])


FILE = """
import torch, torch.nn.functional as F, fusewright
from fusewright.bench import Case

def cases(device):
    for columns, ours in ((16, {ours}), (32, lambda x: fusewright.rms_norm(x, eps=1e-6))):
        yield Case(op="rms_norm", shape=f"8x{{columns}}", dtype=torch.float32,
                   make=lambda device, n=columns: (torch.randn(8, n, device=device),),
                   ours=ours, eager=lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
                   bytes=64 * columns)
"""


def write_benchmark(folder: Path, ours: str) -> None:
    folder.mkdir()
    (folder / "rms_norm.py").write_text(FILE.format(ours=ours))
    (folder / "_not_an_operator.py").write_text("raise AssertionError")


@pytest.mark.parametrize("wrong", [False, True])
def test_session(tmp_path: Path, wrong: bool) -> None:
    ours = "lambda x: x" if wrong else "lambda x: fusewright.rms_norm(x, eps=1e-6)"
    write_benchmark(tmp_path / "benchmarks", ours)
    text, out = io.StringIO(), tmp_path / "out"
    right = session.run(
        folder=tmp_path / "benchmarks",
        ops=["rms_norm"],
        dtypes=[],
        options=FAST,
        out=out,
        quick=False,
        compare=None,
        console=Console(file=text, width=120),
    )
    assert right is not wrong
    shapes = {r.shape for r in read_csv(out / "cpu.csv")}
    assert shapes == ({"8x32"} if wrong else {"8x16", "8x32"})
    assert (out / "rms_norm-cpu.png").read_bytes().startswith(b"\x89PNG")
    assert ("1 of 2 cases are wrong: they have no times" in text.getvalue()) is wrong
    assert ("8x16 fusewright: output 0 is off by" in text.getvalue()) is wrong
