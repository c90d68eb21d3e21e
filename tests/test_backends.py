"""Which backends are found, what is said of those that fail, and how a user picks one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import threading
from pathlib import Path

import pytest
import torch

import fusewright
from fresh import python, run
from fusewright import ArgumentError, BackendLoadError, BackendNotBuiltError
from fusewright.backends._library import KernelLibrary
from fusewright.backends.cuda import code_for, cuda_backend
from fusewright.ops.rms_norm import RMS_NORM

CALL = """
import warnings, torch, fusewright
x = torch.ones(2, 8)
"""
EXPLAIN = CALL + "print(fusewright.explain('rms_norm', x))"


def test_wrong_instruction_set() -> None:
    text = python(EXPLAIN, FUSEWRIGHT_CPU_ISA="sse9")
    assert "FUSEWRIGHT_CPU_ISA is 'sse9', must be one of baseline, avx2, avx512" in text


def test_torch_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu126")
    library = KernelLibrary("fusewright_cpu", package="fusewright")
    text = r'needs torch >= 2\.10, this is 2\.9\.1\+cu126: pip install "torch>=2\.10"'
    with pytest.raises(BackendLoadError, match=text):
        library.load()


def test_library_of_no_package() -> None:
    with pytest.raises(BackendNotBuiltError, match=r"libnothing\.so does not exist"):
        KernelLibrary("nothing", package="fusewright").load()


# Add-ons: a distribution that announces a backend by an entry point.


def add_on(folder: Path, code: str) -> str:
    """Install a distribution `fusewright-toy` that announces the backend `toy`; its path."""
    (folder / "fusewright_toy.py").write_text(code)
    info = folder / "fusewright_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fusewright-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fusewright.backends]\ntoy = fusewright_toy:BACKEND\n")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


TOY = """
from fusewright.backends import Backend
def load():
    import torch
    kernels = torch.library.Library("fusewright_toy", "IMPL")
    kernels.impl("double", lambda x: 2 * x, "CPU")
    load.kept = kernels
    return __file__
BACKEND = Backend("toy", ("cpu",), "CPU", load, distribution="fusewright-toy")
"""
DOUBLE = """
from fusewright._op import Op
double = Op(
    name="double", forward="(Tensor x) -> (Tensor y)", backward=None, reference=lambda x: x + x,
    fake=torch.empty_like, supports={"toy": lambda x: None if x.dim() else "no scalars"},
    sample=lambda: (torch.ones(2),),
)
"""


def test_add_on(tmp_path: Path) -> None:
    path = add_on(tmp_path, TOY)
    assert "toy        has no kernel for this operator" in python(EXPLAIN, PYTHONPATH=path)
    code = """
assert torch.equal(double(x), 2 * x) and torch.equal(double(x, backend="toy"), 2 * x)
assert double.default("cpu", (x,)) == "toy"
reasons = double.reasons("cpu", (torch.tensor(1.0),))
print([reasons[name] for name in ("cpu", "toy")])
"""
    reasons = python(CALL + DOUBLE + code, PYTHONPATH=path)
    assert reasons == "['has no kernel for this operator', 'no scalars']"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('CUDA is too old')", "RuntimeError: CUDA is too old"),
        ("backend = 1", "AttributeError: module 'fusewright_toy' has no attribute 'BACKEND'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_broken_add_on(tmp_path: Path, code: str, reason: str) -> None:
    path = add_on(tmp_path, code)
    forced = """
try:
    fusewright.rms_norm(x, backend="toy")
except fusewright.BackendLoadError as error:
    print(error)
"""
    explained, error = python(EXPLAIN + forced, PYTHONPATH=path).split("plain PyTorch, could run")
    assert explained.startswith("rms_norm -> cpu: ")
    for text in (explained, error):
        assert f"backend 'toy' can't be imported: {reason}" in text


def test_add_on_that_does_not_load(tmp_path: Path) -> None:
    code = """
from fusewright.backends import Backend
from fusewright.errors import BackendLoadError
def load():
    raise BackendLoadError("built for torch 3.0")
BACKEND = Backend("toy", ("cpu",), "CPU", load)
"""
    path = add_on(tmp_path, code)
    assert "toy        built for torch 3.0" in python(EXPLAIN, PYTHONPATH=path)


def test_add_on_can_not_replace_a_backend(tmp_path: Path) -> None:
    path = add_on(tmp_path, TOY.replace('Backend("toy"', 'Backend("cpu"'))
    code = "print(fusewright.backends.installed()['cpu'].distribution)"
    assert python(CALL + code, PYTHONPATH=path) == "fusewright"


# The CUDA kernels come as such an add-on, which has its own reasons not to load.


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library of an add-on `cuda_add_on` lies, whose distribution has our version."""
    (tmp_path / "cuda_add_on" / "lib").mkdir(parents=True)
    (tmp_path / "cuda_add_on" / "__init__.py").touch()
    library = tmp_path / "cuda_add_on" / "lib" / "libfusewright_cuda.so"
    library.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cuda_add_on", raising=False)
    own = fusewright.__version__  # asks metadata, once
    monkeypatch.setattr(importlib.metadata, "version", lambda _: own)
    return library


def cuda_reason() -> tuple[type[Exception], str]:
    error = cuda_backend(package="cuda_add_on", distribution="cuda-add-on").error
    assert error is not None
    return type(error), str(error)


def test_cuda_library_left_out(cuda: Path) -> None:
    cuda.unlink()
    text = f'{cuda} does not exist, the CUDA kernels are an add-on: pip install "fusewright[cu13]"'
    assert cuda_reason() == (BackendNotBuiltError, text)


def test_cuda_torch_without_cuda(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    text = (
        f"{cuda} needs a CUDA build of torch, this is {torch.__version__}: "
        f'pip install --force-reinstall "torch=={torch.__version__.split("+")[0]}"'
    )
    assert cuda_reason() == (BackendLoadError, text)


def test_cuda_without_a_gpu(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = f"{cuda}: torch {torch.__version__} finds no GPU"
    assert cuda_reason() == (BackendLoadError, text)


def test_cuda_add_on_of_another_version(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda.exists()
    monkeypatch.setattr(fusewright, "__version__", "2.3.4", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.3.3")
    text = (
        "cuda-add-on 2.3.3 is installed beside fusewright 2.3.4, must be of the same version: "
        'pip install "fusewright[cu13]==2.3.4"'
    )
    assert cuda_reason() == (BackendLoadError, text)


def test_cuda_library_for_other_gpus(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(KernelLibrary, "load", lambda self: str(self.path))
    monkeypatch.setattr(KernelLibrary, "build_info", lambda _: {"architectures": "80-real, 120"})
    text = f"{cuda} holds code for 80-real, 120, not for Tesla T4 (sm_75), which Triton serves"
    for found, remedy in ((True, ""), (None, ": pip install triton")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, found=found: found)
        assert cuda_reason() == (BackendNotBuiltError, text + remedy)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert cuda_backend(package="cuda_add_on", distribution="cuda-add-on").file == str(cuda)


@pytest.mark.parametrize(
    ("architectures", "binary", "ptx", "neither"),
    [
        ("80-real", [(8, 0), (8, 6), (8, 9)], [], [(7, 5), (9, 0), (12, 0)]),
        ("86-real, 90a-real", [(8, 6), (8, 9), (9, 0)], [], [(8, 0), (10, 0)]),
        ("100-real", [(10, 0), (10, 3)], [], [(9, 0), (11, 0), (12, 0)]),
        ("100a-real", [(10, 0)], [], [(10, 3)]),
        ("90", [(9, 0)], [(10, 0), (12, 1)], [(8, 9)]),
        ("80-real, 120", [(8, 0), (12, 0), (12, 1)], [(13, 0)], [(9, 0), (10, 0)]),
    ],
)
def test_cuda_architectures(
    architectures: str,
    binary: list[tuple[int, int]],
    ptx: list[tuple[int, int]],
    neither: list[tuple[int, int]],
) -> None:
    assert {code_for(architectures, c) for c in binary} == {"binary"}
    assert {code_for(architectures, c) for c in ptx} <= {"PTX"}
    assert {code_for(architectures, c) for c in neither} == {None}


# The user's choice.


def chosen(backend: str | None = None) -> str:
    return fusewright.explain("rms_norm", torch.ones(2, 8), backend=backend).backend


def test_argument_beats_context_beats_default() -> None:
    assert chosen() == "cpu"
    with fusewright.use_backend("reference"):
        assert chosen() == "reference"
        assert chosen("cpu") == "cpu"
        with fusewright.use_backend("cpu"):
            assert chosen() == "cpu"
        with fusewright.use_backend(None):
            assert chosen() == "cpu"
        assert chosen() == "reference"
    assert chosen() == "cpu"


def test_context_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), fusewright.use_backend("reference"):
        raise KeyError
    assert chosen() == "cpu"


def test_context_is_of_one_thread() -> None:
    seen = []
    with fusewright.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen()))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_unknown_name() -> None:
    text = r"\[backend\] name is 'cpuu', must be one of reference, cpu"
    x = torch.ones(2, 8)
    with pytest.raises(ArgumentError, match=text), fusewright.use_backend("cpuu"):
        pass
    with pytest.raises(ArgumentError, match=text):
        fusewright.rms_norm(x, backend="cpuu")
    with pytest.raises(ArgumentError, match=text):
        fusewright.explain("rms_norm", x, backend="cpuu")
    with pytest.raises(ArgumentError, match=r"\[explain\] op is 'rmsnorm', must be one of "):
        fusewright.explain("rmsnorm", x)


def test_environment() -> None:
    for name in ("reference", "cpu"):
        assert python(EXPLAIN, FUSEWRIGHT_BACKEND=name).startswith(f"rms_norm -> {name}: forced")
    assert python(EXPLAIN, FUSEWRIGHT_BACKEND="").startswith("rms_norm -> cpu: the first")
    result = run(CALL + "fusewright.rms_norm(x)", FUSEWRIGHT_BACKEND="gpu")
    assert "ArgumentError: [backend] name is 'gpu', must be one of reference, cpu" in result.stderr


def test_forced_backend_never_falls_back() -> None:
    x = torch.ones(2, 8, device="meta")
    text = r"\[rms_norm\] backend 'cpu': serves cpu tensors, x is on meta"
    with pytest.raises(fusewright.UnsupportedError, match=text):
        fusewright.rms_norm(x, backend="cpu")


def test_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 8)
    monkeypatch.setitem(RMS_NORM.supports, "cpu", lambda *_: "not today")
    monkeypatch.setattr(RMS_NORM, "_warned", set())
    with pytest.warns(RuntimeWarning, match="runs as plain PyTorch on cpu.*not today"):
        fusewright.rms_norm(x)
    monkeypatch.setattr(RMS_NORM, "_warned", set())
    monkeypatch.setenv("FUSEWRIGHT_STRICT", "1")
    with pytest.raises(
        fusewright.UnsupportedError, match="runs as plain PyTorch on cpu.*not today"
    ):
        fusewright.rms_norm(x)
    assert fusewright.rms_norm(x, backend="reference").shape == x.shape
    # tensors without data have nothing to be slow on
    assert fusewright.rms_norm(x.to("meta")).shape == x.shape
