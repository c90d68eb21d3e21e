"""The Triton kernels in Triton's interpreter, without a GPU: small sizes for every branch and mask.

The interpreter is chosen when triton is imported, so the checks run in processes of their own.
"""

from __future__ import annotations

import sys

import pytest

from fresh import python, run
from fusewright import backends, ops
from fusewright.backends import Backend

CASES = {
    "rms_norm": [
        "shape=(3, 2, 5), residual=True, dtype=f64",
        "shape=(3, 2100), weight_dtype=f32, dtype=bf16, activation='gelu_tanh', round_first=True",
        "shape=(3, 4, 5), norm_dims=2, dtype=f16, activation='silu', weight_offset=1.0",
        "shape=(2, 5000), residual=True, round_first=True, activation='relu', dtype=bf16",
        "shape=(33, 64), dtype=f16",  # whole blocks
        "shape=(0, 5)",
    ],
    "layer_norm": [
        "shape=(9, 67), residual=True, activation='gelu'",
        "shape=(3, 2100), dtype=bf16, residual=True, residual_dtype=f32",
        "shape=(3, 5000), activation='silu', residual=True",
        "shape=(33, 64), residual=True",  # whole blocks
        "shape=(5, 7), affine=False, dtype=f16",
    ],
    "linear_act": [
        *(
            f"shape=(2, 33, 37), out_features=35, activation={name!r}, dtype={dtype}, keep={keep}"
            for name, dtype, keep in (
                ("none", "f32", True),
                ("relu", "f16", True),
                ("gelu", "bf16", False),
                ("gelu_tanh", "f32", True),
                ("silu", "bf16, weight_dtype=f32", True),
                ("sigmoid", "f64", True),
                ("tanh", "f32, bias=False", True),
                ("mish", "f64", False),
            )
        ),
        # whole packs of 16 bytes, which descriptors serve
        "shape=(2, 40, 72), out_features=136, activation='silu', dtype=bf16",
        "shape=(70, 40), out_features=72, activation='gelu', dtype=f16, bias=False, keep=False",
    ],
    "causal_conv1d": [
        "shape=(2, 3, 9), seq_idx=True, initial_states=True, return_final_states=True",
        "shape=(2, 3, 9), seq_idx=True, return_final_states=True, width=3, channel_last=True",
        "shape=(1, 2, 2050), dtype=bf16, initial_states=True, silu=False, bias=False",
        "shape=(1, 3, 2050), dtype=bf16, return_final_states=False",
        "shape=(2, 3, 9), width=5, silu=False, bias=False",
        "shape=(2, 70, 40), dtype=f16, channel_last=True, width=2, weight_dtype=f32",
        "shape=(2, 270, 45), dtype=bf16, channel_last=True, return_final_states=False",
        "shape=(1, 5, 33), channel_last=True, width=3, bias=False, silu=False",
        "shape=(2, 3, 2), initial_states=True, return_final_states=True, dtype=f64, width=5",
        "shape=(1, 3, 30), width=20, dtype=f64",
        "shape=(2, 3, 0), initial_states=True, return_final_states=True",
        "shape=(2, 3, 7), width=1, silu=False",
    ],
    "causal_conv1d_update": [
        "shape=(4, 5, 1)",
        "shape=(4, 5, 3), length=7, states=6, dtype=bf16",
        "shape=(3, 5, 12), length=5, circular=True, states=4, dtype=f16",
        "shape=(3, 5, 2), length=70, dtype=f64, width=6",
        "shape=(3, 5, 2), length=1, width=1, silu=False",
    ],
    "causal_conv1d_varlen_states": [
        "dtype=f64",
        "dtype=bf16, state_len=70, lengths=(5, 80, 0)",
        "lengths=()",
        "state_len=0",
    ],
    **{
        name: [f"shape=(2, 3, {size}), dtype={dtype}" for size, dtype in pairs]
        for name, pairs in (
            ("haar1d", (("17", "f64"), ("1200", "bf16"))),
            ("ihaar1d", (("18", "f64"), ("1201", "bf16"))),
            ("haar2d", (("9, 7", "f64"), ("35, 70", "bf16"), ("1, 1", "f32"))),
            ("ihaar2d", (("9, 8", "f64"), ("36, 69", "bf16"), ("2, 1", "f32"))),
        )
    },
    "wtconv1d": [
        "shape=(2, 3, 17), levels=3, kernel=3, dtype=f64",
        "shape=(1, 40, 9), channels_last=True, kernel=4, dtype=bf16, weight_dtype=f32",
        "shape=(1, 2, 13), levels=0, bias=False",
        "shape=(1, 2, 300), levels=1, kernel=8",
    ],
    "wtconv2d": [
        "shape=(1, 2, 7, 7), levels=2, kernel=3, dtype=f64",
        "shape=(1, 2, 14, 14), levels=3, kernel=2, dtype=bf16",
        "shape=(1, 33, 5, 6), levels=1, kernel=3, channels_last=True, dtype=f16",
        "shape=(1, 2, 37, 23), levels=1, kernel=3",
        # matrix units: one strip of columns, or several with margins, and the largest filter
        "shape=(2, 2, 5, 7), levels=1, kernel=5, dtype=f16, weight_dtype=f32",
        "shape=(3, 2, 9, 41), levels=2, kernel=5, dtype=f16, bias=False",
        "shape=(1, 1, 14, 40), levels=1, kernel=9, dtype=bf16",
        "shape=(1, 2, 6, 24), levels=0, kernel=4, dtype=bf16",
        "shape=(1, 1, 4, 80), levels=1, kernel=5, dtype=f16",  # rows of whole sectors
        "shape=(1, 2, 13, 22), levels=4, kernel=1, dtype=bf16",  # low bands, also of one pixel
        "shape=(1, 1, 65, 66), levels=2, kernel=1, dtype=f16",  # a plane too large for that
        "shape=(1, 1, 5, 4), levels=1, kernel=6",
        "shape=(1, 1, 3, 2), levels=1, kernel=8, bias=False",
        "shape=(2, 3, 5, 5), levels=0, kernel=1, bias=False",
        "shape=(0, 3, 5, 5), levels=2, kernel=3",
    ],
}

_CHECK = """
import sys, warnings
sys.path[:0] = {path}
warnings.simplefilter("ignore")  # the interpreter's
import torch
from check import check_registration, check_values
from fusewright import backends, ops
from torch import float16 as f16, float32 as f32, float64 as f64, bfloat16 as bf16
assert backends.installed()["triton"].error is None, backends.installed()["triton"].error
torch.use_deterministic_algorithms(True)
for name, cases in {cases!r}:
    op = ops.load_all()[name]
    for case in cases:
        check_values(op, eval(f"op.sample({{case}})"), "triton")
    check_registration(op, eval(f"op.sample({{cases[0]}})"), "triton")
"""

# Operators that share a process, whose start takes longer than most checks.
GROUPS = ("norm", "causal", "haar", "wtconv1d", "wtconv2d", "linear")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="triton is published for Linux")


def test_every_operator_is_here() -> None:
    assert sorted(CASES) == ops.names()
    assert all(any(group in name for group in GROUPS) for name in CASES)


@pytest.mark.parametrize("group", GROUPS)
def test_against_the_reference(group: str, pytestconfig: pytest.Config) -> None:
    cases = [(name, options) for name, options in CASES.items() if group in name]
    path = [str(pytestconfig.rootpath / "tests")]
    python(_CHECK.format(path=path, cases=cases), TRITON_INTERPRET="1")


@pytest.mark.parametrize(
    ("few", "case"),
    [
        (
            "_conv_dense_calls as c; c._MANY = 1",
            ("causal_conv1d", "shape=(1, 2, 4104), dtype=bf16, return_final_states=False"),
        ),
        (
            "_wtconv_matrix_calls as c; few = lambda p: {w: q._replace(programs=1) for w, q in "
            "p.items()}; c._PRODUCT, c._GRAM = few(c._PRODUCT), few(c._GRAM)",
            ("wtconv2d", "shape=(16, 2, 9, 5), levels=1, kernel=2, dtype=f16"),
        ),
    ],
)
def test_several_tiles_a_program(
    few: str, case: tuple[str, str], pytestconfig: pytest.Config
) -> None:
    """As only large tensors have them."""
    path = [str(pytestconfig.rootpath / "tests")]
    check = _CHECK.format(path=path, cases=[(case[0], [case[1]])])
    python(f"from fusewright.backends.triton import {few}\n{check}", TRITON_INTERPRET="1")


def test_without_a_gpu() -> None:
    code = """
import fusewright, torch, sys
torch.cuda.is_available = lambda: False
explanation = fusewright.explain("rms_norm", torch.ones(2, 8))
print(explanation.backend, explanation.reasons["triton"], sep="|")
"""
    chosen, reason = python(code, TRITON_INTERPRET="0").split("|")
    assert chosen == "cpu"
    assert "finds no GPU" in reason


def test_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
import fusewright, torch
x = torch.ones(2, 8)
print(fusewright.explain("rms_norm", x).reasons["triton"])
try:
    fusewright.rms_norm(x, backend="triton")
except fusewright.BackendNotBuiltError as error:
    print(error)
"""
    lines = python(code).splitlines()
    assert len(lines) == 2
    assert all("triton is not installed: pip install triton" in line for line in lines)


def test_a_broken_triton_has_its_reason() -> None:
    code = """
import importlib
plain = importlib.import_module
def broken(name, *rest):
    if name == "triton":
        raise RuntimeError("no libtriton")
    return plain(name, *rest)
importlib.import_module = broken
from fusewright import backends
print(backends.installed()["triton"].error)
"""
    reason = python(code)
    assert reason.startswith("triton can't be imported: RuntimeError: no libtriton: pip install ")


def test_forced_and_compared_with_others() -> None:
    code = """
import fusewright, torch
x = torch.ones(2, 8)
print(fusewright.explain("rms_norm", x, backend="triton").why)
print(fusewright.explain("rms_norm", x).reasons["triton"])
"""
    result = run(code, TRITON_INTERPRET="1")
    assert result.stdout.splitlines() == ["forced", "could run, comes after cpu"], result.stderr


def test_add_ons_come_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "zeta"

        def load(self) -> Backend:
            return Backend(self.name, devices=(), dispatch_key="", load=str)

    monkeypatch.setattr(backends, "entry_points", lambda group: [Point()])
    assert list(backends._discover())[-2:] == ["zeta", "triton"]
