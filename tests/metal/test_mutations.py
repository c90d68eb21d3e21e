"""Faults that the tests of the kernels must not let pass: each is put into a copy of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cases import check_rounding
from check import check_values
from emulator.build import Builder
from emulator.device import SCHEDULES
from mutations import MUTATIONS, Mutation


def run(metal: Any, emulated: Any, mutation: Mutation) -> None:
    """The mutation's cases as test_kernels runs them."""
    op = emulated[mutation.op]
    try:
        for schedule in SCHEDULES:
            metal.schedule = schedule
            for options in mutation.cases:
                args = op.sample(**{"dtype": mutation.dtype, **options})
                check_values(op, args, "emulator", few=64)
        if mutation.op == "rms_norm" and mutation.dtype is not torch.float32:
            check_rounding(op, mutation.dtype, "emulator")
    finally:
        metal.schedule = "in_order"


def test_there_are_enough() -> None:
    assert len(MUTATIONS) >= 10
    assert len({m.what for m in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.what)
def test_caught(
    metal: Any, emulated: Any, builder: Builder, tmp_path: Path, mutation: Mutation
) -> None:
    # what shows the fault shows nothing without it
    run(metal, emulated, mutation)
    names = {mutation.op, mutation.op[1:] if "ihaar" in mutation.op else f"i{mutation.op}"}
    names &= {p.stem for p in mutation.apply(tmp_path).glob("*.metal")}
    folder = tmp_path / "kernels"
    metal.load([builder.kernels(name, folder=folder) for name in sorted(names)])
    try:
        with pytest.raises((AssertionError, RuntimeError)):
            run(metal, emulated, mutation)
    finally:
        metal.load(builder.all_kernels(sorted(names)))
