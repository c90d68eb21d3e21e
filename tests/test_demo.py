from __future__ import annotations

from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from fusewright import demo
from fusewright.cli import app


def test_both_runs_start_alike_and_stay_close(tmp_path: Path) -> None:
    out = tmp_path / "demo.png"
    plain, fused = demo.run(steps=4, seed=3, out=out, console=Console(quiet=True))
    assert abs(plain.losses[0] - fused.losses[0]) < 1e-4
    assert max(abs(a - b) for a, b in zip(plain.losses, fused.losses, strict=True)) < 1e-2
    assert out.read_bytes().startswith(b"\x89PNG")


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "demo.png"
    result = CliRunner().invoke(app, ["demo", "--steps", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for word in ("step, median", "test accuracy", "largest difference", str(out.name)):
        assert word in result.output
    assert out.exists()
