"""The benchmark files: found by the name of their operator, loaded, their cases chosen."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from fusewright.bench.case import Case
from fusewright.errors import fail

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_SHORT = {dtype: name for name, dtype in DTYPES.items()}


def short_name(dtype: torch.dtype) -> str:
    """'fp32' for torch.float32."""
    return _SHORT.get(dtype, str(dtype).removeprefix("torch."))


def parse_dtypes(text: str) -> list[torch.dtype]:
    """The dtypes of 'fp32,bf16' or 'float32,bfloat16'.

    Raises:
        ArgumentError: a name is none of the four dtypes.
    """
    long = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    known = {**DTYPES, **long}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            fail("bench", "--dtype", repr(name), f"be among {', '.join(DTYPES)}")
    return [known[name] for name in names]


def parse_device(text: str) -> torch.device:
    """The device of 'cpu', or of 'cuda' or 'cuda:1' where there is one.

    Raises:
        ArgumentError: this machine has no such device.
    """
    known = ["cpu"]
    if torch.cuda.is_available():
        known += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if text not in known:
        fail("bench", "--device", repr(text), f"be among {', '.join(known)}")
    return torch.device(text)


def files(folder: Path, ops: Sequence[str]) -> list[Path]:
    """The benchmark files of the operators that are asked for, or of all.

    Raises:
        ArgumentError: the folder or the file of an operator does not exist.
    """
    if not folder.is_dir():
        fail("bench", "--path", repr(str(folder)), "be a folder of benchmark files")
    found = {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}
    for op in ops:
        if op not in found:
            fail("bench", "OP", repr(op), f"be one of {', '.join(found) or 'none'} in {folder}")
    return [found[op] for op in ops] if ops else list(found.values())


def cases(
    file: Path, device: torch.device, dtypes: Collection[torch.dtype], *, quick: bool
) -> list[Case]:
    """The cases of one file.

    Args:
        file: `benchmarks/<op>.py`, which has a function `cases(device)`.
        device: passed to it.
        dtypes: only these; empty for all.
        quick: only the smallest case of every operator and dtype.
    """
    spec = importlib.util.spec_from_file_location(f"benchmarks_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks up the functions it traces
    spec.loader.exec_module(module)
    chosen = [c for c in module.cases(device) if not dtypes or c.dtype in dtypes]
    if not quick:
        return chosen
    smallest: dict[tuple[str, torch.dtype], Case] = {}
    for case in chosen:
        best = smallest.setdefault((case.op, case.dtype), case)
        if case.bytes < best.bytes:
            smallest[case.op, case.dtype] = case
    return list(smallest.values())
