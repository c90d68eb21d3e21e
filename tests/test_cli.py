"""The command line: its help, its options, and what it says of wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fusewright.cli import app
from test_bench import write_benchmark

BENCH = ("--no-compile", "--quick", "--passes", "forward")


def invoke(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200", "NO_COLOR": "1"})


def plain(result: Result) -> str:
    """What was printed, without the escapes that bold an option."""
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("doctor", "bench", "demo")),
        (("doctor",), ("--json",)),
        (
            ("bench",),
            (
                *("OP", "--device", "--path", "--out", "--passes", "--dtype", "--compare"),
                *("--seconds", "--quick", "--no-compile", "such a case has no times"),
            ),
        ),
        (("demo",), ("--steps", "--seed", "--out")),
    ],
)
def test_help(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    for word in words:
        assert word in plain(result)


def test_nothing_asked_for_shows_the_help() -> None:
    assert "Usage" in plain(invoke())


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("train",), "No such command 'train'"),
        (("doctor", "--yaml"), "No such option"),
        (("demo", "--steps", "0"), "Invalid value for '--steps'"),
        (("demo", "--steps", "many"), "Invalid value for '--steps'"),
        (
            ("demo", "--out", "no/such/folder/demo.png"),
            "[demo] --out is 'no/such/folder/demo.png', must be in a folder that exists",
        ),
        (("bench", "--seconds", "soon"), "Invalid value for '--seconds'"),
        (("bench", "--seconds", "-1"), "Invalid value for '--seconds'"),
        (("bench", "--compare", "none.csv"), "'none.csv' does not exist"),
        (("bench", "--path", "nowhere"), "[bench] --path is 'nowhere', must be a folder of"),
        (("bench", "no_such_op"), "[bench] OP is 'no_such_op', must be one of"),
        (("bench", "--dtype", "int8"), "[bench] --dtype is 'int8', must be among fp64, fp32"),
        (("bench", "--passes", "both"), "[bench] --passes is 'both', must be among forward"),
        (("bench", "--device", "tpu"), "[bench] --device is 'tpu', must be among cpu"),
    ],
)
def test_wrong_options(args: tuple[str, ...], text: str, tmp_path: Path) -> None:
    if args[0] == "bench" and "--path" not in args:
        write_benchmark(tmp_path / "benchmarks", "lambda x: x")
        args = (*args, "--path", str(tmp_path / "benchmarks"))
    result = invoke(*args)
    assert result.exit_code not in (0, None)
    assert isinstance(result.exception, SystemExit), "a traceback is no message"
    assert text in " ".join(plain(result).replace("│", " ").split())


@pytest.mark.parametrize("wrong", [False, True])
def test_bench(tmp_path: Path, wrong: bool) -> None:
    """No speed is reported on a red check, and the exit says so."""
    ours = "lambda x: x" if wrong else "lambda x: fusewright.rms_norm(x, eps=1e-6)"
    write_benchmark(tmp_path / "benchmarks", ours)
    out = tmp_path / "out"
    result = invoke("bench", "--path", str(tmp_path / "benchmarks"), "--out", str(out), *BENCH)
    assert result.exit_code == int(wrong), result.output
    assert ("off by" in plain(result)) is wrong
    assert (out / "cpu.csv").exists() is not wrong  # --quick keeps the one case
    if not wrong:
        old = ("--compare", str(out / "cpu.csv"))
        again = invoke(
            "bench", "--path", str(tmp_path / "benchmarks"), "--out", str(out), *BENCH, *old
        )
        assert again.exit_code == 0
        assert "of 2 rows moved" in plain(again)


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "fusewright", "doctor", "--help"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "--json" in run.stdout
