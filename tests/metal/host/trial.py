"""Runs haar2d of several builds of the host code on the device: `python -m host.trial LIBRARY ...`.

Each runs in a fork, torch being imported once, and leaves its error in `LIBRARY.txt`: nothing where
all is right.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch

from check import check_values
from host import plugin


def _check() -> None:
    from fusewright.ops.haar2d import HAAR2D

    around = torch.randn(3, 3, 9, 7, device="mps")
    check_values(HAAR2D, (around[1:], 9, 7), "metal")
    check_values(HAAR2D, HAAR2D.sample(dtype=torch.bfloat16, device="mps"), "metal")


def _run(library: str) -> str:
    child = os.fork()
    told = Path(f"{library}.txt")
    if child == 0:
        plugin.use(library)
        try:
            _check()
            told.write_text("")
        except BaseException:
            told.write_text(traceback.format_exc())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return told.read_text() if status == 0 else f"ended with status {status}"


for path in sys.argv[1:]:
    Path(f"{path}.txt").write_text(_run(path))
