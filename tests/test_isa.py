"""Every instruction set that the CPU library holds: it computes the same, and runs where it may.

The other tests run with the newest one that this machine has.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fresh import python
from fusewright import backends

TESTS = Path(__file__).parent
NAMES = ["baseline", "avx2"] if platform.machine() == "x86_64" else ["baseline"]

VALUES = """
import sys
sys.path.insert(0, {tests!r})
import torch
from check import check_values
from fusewright import backends, ops

torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
LONGER = {{"causal_conv1d_varlen_states": {{"lengths": (50, 3, 0, 41), "channels": 77}}}}
for name, op in ops.load_all().items():
    batch, *rest = op.sample()[0].shape
    longer = LONGER.get(name, {{"shape": (batch, *[3 * size + 2 for size in rest])}})
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for options in ({{}}, longer):
            check_values(op, op.sample(dtype=dtype, **options), "cpu")
print(backends.installed()["cpu"].describe()["isa"])
"""


@pytest.mark.parametrize("wanted", NAMES)
def test_values(wanted: str) -> None:
    """Forward and backward of every operator against the reference."""
    code = VALUES.format(tests=str(TESTS))
    used = python(code, FUSEWRIGHT_CPU_ISA=wanted, OMP_NUM_THREADS="1")
    newest = backends.installed()["cpu"].describe()["isa"]
    assert used == ("baseline" if newest == "baseline" else wanted)


# What an old machine executes.

# Functions of an object that is not stripped, and the calls and AVX instructions in their text.
FUNCTION = re.compile(r"^([0-9a-f]+) <(.+)>:$", re.M)
CALLED = re.compile(r"\t(?:call|jmp) +([0-9a-f]+) <[^>+]+>")
AVX = re.compile(r"\t(?:v[a-z0-9]+ .*|.*%[yz]mm.*)$", re.M)  # and no other mnemonic begins with v
NEWER = re.compile("4avx2|6avx512")
ROOT = re.compile("fusewright|_GLOBAL__|^_init$|^_fini$|_Sp_counted|exception|bad_")
# Every object has such helpers for itself: the baseline's are those that the baseline calls.
LOCAL = re.compile("fusewright12_GLOBAL__N_1")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set only")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_baseline_holds_nothing_newer() -> None:
    """Follow every call from the baseline kernels and from what runs as the library loads.

    An inline function that several objects contain is kept once, from the first: were that one
    compiled for AVX, an old machine would stop at it.
    """
    file = backends.installed()["cpu"].file
    assert file is not None
    command = ["objdump", "-d", "--no-show-raw-insn", file]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = FUNCTION.split(text)
    names = dict(zip(parts[1::3], parts[2::3], strict=True))
    bodies = dict(zip((a.lstrip("0") for a in parts[1::3]), parts[3::3], strict=True))
    names = {address.lstrip("0"): name for address, name in names.items()}
    found = [
        address
        for address, name in names.items()
        if ROOT.search(name) and not NEWER.search(name) and not LOCAL.search(name)
    ]
    assert sum("8baseline" in names[a] for a in found) > 100, "the library has no symbols"
    assert any(AVX.search(bodies[a]) for a, name in names.items() if "4avx2" in name)
    seen = set(found)
    while found:
        address = found.pop()
        instruction = AVX.search(bodies[address])
        assert instruction is None, f"{names[address]}: {instruction and instruction[0].strip()}"
        called = {a for a in CALLED.findall(bodies[address]) if a in bodies} - seen
        assert not [names[a] for a in called if NEWER.search(names[a])]
        seen |= called
        found.extend(called)
