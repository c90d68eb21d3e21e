from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fusewright
from fusewright import backends, doctor, ops
from fusewright.backends.cuda import cuda_backend
from fusewright.cli import app
from fusewright.doctor import examine
from fusewright.errors import BackendLoadError, BackendNotBuiltError


def test_json_names_every_operator_and_backend() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["healthy"]
    assert set(report["operators"]) >= set(ops.names())
    assert all(report["operators"][name]["cpu"] == "cpu" for name in ops.names())
    assert {b["name"] for b in report["backends"]} == set(backends.installed())
    cpu = next(b for b in report["backends"] if b["name"] == "cpu")
    assert cpu["details"]["isa"] in ("baseline", "avx2", "avx512")


def test_tables() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for word in ("torch", "reference", "rms_norm", "wtconv2d"):
        assert word in result.output


def test_a_broken_backend_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> str:
        raise BackendLoadError("the library is cut short [all]")

    broken = backends.Backend(name="broken", devices=(), dispatch_key="", load=load)
    monkeypatch.setitem(backends.installed(), "broken", broken)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "cut short [all]" in result.output  # brackets are no markup


def test_cuda_add_on_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip only warns where it meets such a pair, so `doctor` names it and what to do."""
    versions = {"fusewright-cu13": "0.0.9"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name, "0.1.0"))
    monkeypatch.setattr(fusewright, "__version__", "0.1.0", raising=False)
    (tmp_path / "old_add_on" / "lib").mkdir(parents=True)
    (tmp_path / "old_add_on" / "__init__.py").touch()
    (tmp_path / "old_add_on" / "lib" / "libfusewright_cuda.so").touch()
    monkeypatch.syspath_prepend(tmp_path)
    backend = cuda_backend(package="old_add_on", distribution="fusewright-cu13")
    monkeypatch.setitem(backends.installed(), "cuda", backend)
    report = examine()
    (problem,) = [p for p in report.problems if p.reason.startswith("backend cuda: ")]
    assert "fusewright-cu13 0.0.9 is installed beside fusewright 0.1.0" in problem.reason
    assert problem.remedy == 'pip install "fusewright[cu13]==0.1.0"'


def test_cuda_versions_and_architectures() -> None:
    cuda = next(b for b in examine().backends if b.name == "cuda")
    if cuda.found:
        assert set(cuda.details) == {"version", "compiler", "architectures"}
        assert cuda.details["compiler"].startswith("nvcc ")
    else:
        assert cuda.reason
        assert not cuda.details


# Mismatches, each with the one command that mends it.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that the machine has one GPU, and that the CUDA backend loaded, or why not."""

    def pretend(name: str, capability: tuple[int, int], cuda: str | Exception) -> None:
        def load() -> str:
            if isinstance(cuda, Exception):
                raise cuda
            return "libfusewright_cuda.so"

        backend = backends.Backend(
            name="cuda",
            devices=("cuda",),
            dispatch_key="CUDA",
            load=load,
            describe=lambda: {"architectures": str(cuda)},
        )
        monkeypatch.setitem(backends.installed(), "cuda", backend)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        # no operator is asked: their samples would be made on the GPU
        monkeypatch.setattr(doctor, "_serving", lambda _op, device: serving[device])

    serving = {"cpu": "cpu", "cuda": "cuda"}
    pretend.serving = serving  # type: ignore[attr-defined]
    return pretend


def test_a_gpu_that_is_served_through_ptx(gpu: Callable[..., None]) -> None:
    gpu("NVIDIA X100", (13, 0), "90a-real, 120")
    (note,) = examine().notes
    assert note == (
        "CUDA kernels for 90a-real, 120: NVIDIA X100 (sm_130) is served through PTX, which the "
        "driver compiles at the first call"
    )
    assert note in " ".join(CliRunner().invoke(app, ["doctor"]).output.split())


def test_a_gpu_that_has_its_binary(gpu: Callable[..., None]) -> None:
    gpu("NVIDIA H200", (9, 0), "90a-real, 120")
    report = examine()
    assert report.notes == []
    assert not [p for p in report.problems if "triton" not in p.reason]


def test_a_gpu_that_nothing_serves(gpu: Callable[..., None]) -> None:
    error = BackendNotBuiltError("no code for Tesla T4, which Triton serves", "pip install triton")
    gpu("Tesla T4", (7, 5), error)
    gpu.serving["cuda"] = "reference"  # type: ignore[attr-defined]
    (problem,) = [p for p in examine().problems if "Tesla T4" in p.reason]
    assert problem.reason == "no kernels serve Tesla T4: plain PyTorch runs"
    assert problem.remedy == "pip install triton"
    gpu.serving["cuda"] = "triton"  # type: ignore[attr-defined]
    assert not [p for p in examine().problems if "Tesla T4" in p.reason]


@pytest.mark.parametrize(
    ("version", "cuda", "reason", "remedy"),
    [
        ("2.9.1", "13.0", "needs torch >= 2.10, this is 2.9.1", 'pip install "torch>=2.10"'),
        (
            "2.11.0+cpu",
            None,
            "needs a CUDA build of torch, this is 2.11.0+cpu",
            'pip install --force-reinstall "torch==2.11.0"',
        ),
    ],
)
def test_a_torch_that_does_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    cuda: str | None,
    reason: str,
    remedy: str,
) -> None:
    (tmp_path / "an_add_on" / "lib").mkdir(parents=True)
    (tmp_path / "an_add_on" / "__init__.py").touch()
    (tmp_path / "an_add_on" / "lib" / "libfusewright_cuda.so").write_bytes(b"x" * 64)
    monkeypatch.syspath_prepend(tmp_path)
    own = fusewright.__version__
    monkeypatch.setattr(importlib.metadata, "version", lambda _: own)
    backend = cuda_backend(package="an_add_on", distribution="fusewright-cu13")
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", version)
        patched.setattr(torch.version, "cuda", cuda)
        patched.setattr(torch.cuda, "is_available", lambda: True)
        assert backend.error is not None  # tried under that torch, once
    monkeypatch.setitem(backends.installed(), "cuda", backend)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    (problem,) = [p for p in json.loads(result.output)["problems"] if "cuda" in p["reason"]]
    assert reason in problem["reason"]
    assert problem["remedy"] == remedy
    assert f"  {remedy}\n" in CliRunner().invoke(app, ["doctor"]).output  # on a line of its own
