"""Where CUDA's norms leave their partial sums, compiled for the host: CI has no GPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
INCLUDED = ("element.cuh", "launch.h", "reduce.cuh")


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_sums_of_strips(tmp_path: Path) -> None:
    shutil.copy(HERE.parent / "kernels_cuda" / "norm_sums.cuh", tmp_path)
    for name in INCLUDED:  # beside it they are found first
        (tmp_path / name).write_text('#pragma once\n#include "host.h"\n')
    program = tmp_path / "norm_sums"
    source = HERE / "norm_sums" / "main.cpp"
    flags = ["-std=c++20", "-O1", "-pthread", "-Wno-unknown-pragmas"]
    folders = [f"-I{tmp_path}", f"-I{source.parent}"]
    subprocess.run(["c++", *flags, *folders, str(source), "-o", str(program)], check=True)
    seed = torch.randint(2**31, ()).item()
    run = subprocess.run([str(program), str(seed)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"seed {seed}: {run.stdout[-400:]}"
    assert "late 2" in run.stdout
