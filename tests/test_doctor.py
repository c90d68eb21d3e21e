from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fusewright
from fusewright import backends, ops
from fusewright.backends.cuda import cuda_backend
from fusewright.cli import app
from fusewright.doctor import examine
from fusewright.errors import BackendLoadError


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
    (problem,) = [text for text in report.problems if text.startswith("backend cuda: ")]
    assert "fusewright-cu13 0.0.9 is installed beside fusewright 0.1.0" in problem
    assert 'pip install "fusewright[cu13]==0.1.0"' in problem


def test_cuda_versions_and_architectures() -> None:
    cuda = next(b for b in examine().backends if b.name == "cuda")
    if cuda.found:
        assert set(cuda.details) == {"version", "compiler", "architectures"}
        assert cuda.details["compiler"].startswith("nvcc ")
    else:
        assert cuda.reason
        assert not cuda.details
