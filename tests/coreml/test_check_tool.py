"""tools/check_outputs_vs_pytorch.py, with the emulated pipeline in place of the Swift binary."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

pytest.importorskip("coremltools", reason="coremltools has no package for this platform")

import check_outputs_vs_pytorch as tool
from coreml.program import Program
from coreml.replay import HaarKernels, Pipeline

SIZES = ["--channels", "2", "--height", "9", "--width", "14", "--levels", "3"]


class Runner:
    """The Swift binary, without Swift."""

    def __init__(self, haar: HaarKernels, path: Path) -> None:
        self.haar, self.path = haar, path
        self.error, self.status, self.drop = 0.0, 0, 0
        self.options: dict[str, str] = {}
        path.touch()

    def __call__(self, command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        assert command[0] == str(self.path)
        self.options = dict(zip(command[1::2], command[2::2], strict=True))
        program = Program(Path(self.options["--model"]))
        data = bytearray(Path(self.options["--input-f32"]).read_bytes())
        x = torch.frombuffer(data, dtype=torch.float32).reshape(program.inputs["x"])
        y = Pipeline(program, self.haar)(x)
        y[0, 0, 3, 4] += self.error
        y = y.flatten()[: y.numel() - self.drop]
        Path(self.options["--output-f32"]).write_bytes(y.numpy().tobytes())
        return subprocess.CompletedProcess(command, self.status)


@pytest.fixture
def runner(haar: HaarKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner(haar, tmp_path / "WTConvCoreMLRunner")
    monkeypatch.setattr(subprocess, "run", runner)
    return runner


def check(binary: Path, *options: str) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(tool.main)
    result = CliRunner().invoke(app, ["--binary", str(binary), *SIZES, *options])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_agrees(runner: Runner) -> None:
    status, text = check(runner.path, "--atol", "1e-5", "--rtol", "1e-5", "--iterations", "4")
    assert status == 0, text
    assert "allclose(atol=1e-05, rtol=1e-05) True" in text
    assert {k: v for k, v in runner.options.items() if "f32" not in k and k != "--model"} == {
        "--channels": "2",
        "--height": "9",
        "--width": "14",
        "--levels": "3",
        "--iterations": "4",
    }


def test_disagrees(runner: Runner) -> None:
    runner.error = 0.5
    status, text = check(runner.path)
    assert status == 1, text
    numbers = dict(re.findall(r"(max_abs|mean_abs|rmse) (\S+)", text))
    count = 2 * 9 * 14
    assert float(numbers["max_abs"]) == pytest.approx(0.5, rel=1e-2)
    assert float(numbers["mean_abs"]) == pytest.approx(0.5 / count, rel=1e-2)
    assert float(numbers["rmse"]) == pytest.approx(0.5 / count**0.5, rel=1e-2)
    assert "allclose(atol=0.0001, rtol=0.0001) False" in text


def test_runner_fails(runner: Runner) -> None:
    runner.status = 64
    status, text = check(runner.path)
    assert status == 2
    assert "failed with status 64" in text


def test_runner_writes_too_little(runner: Runner) -> None:
    runner.drop = 1
    status, text = check(runner.path)
    assert status == 2
    assert f"wrote {4 * 251} bytes, must write {4 * 252}" in text


def test_no_binary() -> None:
    status, text = check(Path("none"))
    assert status == 2
    assert "none does not exist: swift build" in text
