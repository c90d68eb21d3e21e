from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fusewright import backends, ops
from fusewright.cli import app
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
        raise BackendLoadError("the library is cut short")

    broken = backends.Backend(name="broken", devices=(), dispatch_key="", load=load)
    monkeypatch.setitem(backends.installed(), "broken", broken)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "cut short" in result.output
