"""Which backends are found, what is said of those that fail, and how a user picks one."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch

import fusewright
from fresh import python, run
from fusewright import ArgumentError, BackendLoadError, BackendNotBuiltError, backends
from fusewright.backends._library import KernelLibrary
from fusewright.backends.cuda import cuda_backend
from fusewright.backends.cuda import serves as serves_gpu
from fusewright.ops.rms_norm import RMS_NORM

CALL = """
import warnings, torch, fusewright
x = torch.ones(2, 8)
"""
EXPLAIN = CALL + "print(fusewright.explain('rms_norm', x))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package whose kernel library may be damaged; it goes on PYTHONPATH."""
    source = Path(fusewright.__file__).parent
    target = tmp_path / "fusewright"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    cpu = backends.installed()["cpu"]
    assert cpu.file is not None, cpu.error
    (target / "lib").mkdir()
    shutil.copy(cpu.file, target / "lib")
    return tmp_path


def library_in(package: Path) -> Path:
    (path,) = (package / "fusewright" / "lib").iterdir()
    return path


def test_the_copy_works(package: Path) -> None:
    text = python(EXPLAIN, PYTHONPATH=str(package))
    assert text.startswith("rms_norm -> cpu: ")
    assert f"from {library_in(package)}" in text


@pytest.mark.parametrize("size", [0, 70, 500_000])
def test_truncated_library(package: Path, size: int) -> None:
    library = library_in(package)
    with library.open("r+b") as file:
        file.truncate(size)
    broken(package, f"{library} is incomplete: install it again")


def test_library_that_is_none(package: Path) -> None:
    library_in(package).write_bytes(b"not a library\n" * 100)
    broken(package, "did not load under torch")


def test_library_of_another_version(package: Path) -> None:
    """It loads, and holds none of the operators."""
    shutil.copy(Path(torch.__file__).parent / "lib" / "libtorch.so", library_in(package))
    broken(package, "lacks this operator: it is of another version", error="UnsupportedError")


def test_library_left_out(package: Path) -> None:
    library_in(package).unlink()
    reason = "does not exist: this build left it out"
    broken(package, reason, error="BackendNotBuiltError")
    for environment, error in (
        ({"FUSEWRIGHT_BACKEND": "cpu"}, "BackendNotBuiltError"),
        ({"FUSEWRIGHT_STRICT": "1"}, "UnsupportedError"),
    ):
        result = run(CALL + "fusewright.rms_norm(x)", PYTHONPATH=str(package), **environment)
        assert result.returncode == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith(f"fusewright.errors.{error}: "), result.stderr
        assert reason in last


def broken(package: Path, reason: str, error: str = "BackendLoadError") -> None:
    """The reference serves with one warning, all say why, and a forced backend raises."""
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = fusewright.rms_norm(x)
    fusewright.rms_norm(x)
torch.testing.assert_close(y, x)
(warning,) = [w for w in caught if w.category is RuntimeWarning]
assert str(warning.message).startswith("[rms_norm] runs as plain PyTorch on cpu")
print(warning.message)
print(str(fusewright.explain("rms_norm", x)).replace("\\n", " "))
try:
    fusewright.rms_norm(x, backend="cpu")
except fusewright.%s as error:
    print(error)
"""
    lines = python(CALL + code % error, PYTHONPATH=str(package)).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert reason in line


def test_wrong_instruction_set() -> None:
    text = python(EXPLAIN, FUSEWRIGHT_CPU_ISA="sse9")
    assert "FUSEWRIGHT_CPU_ISA is 'sse9', must be one of baseline, avx2, avx512" in text


def test_torch_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu126")
    library = KernelLibrary("fusewright_cpu", package="fusewright")
    with pytest.raises(BackendLoadError, match=r"needs torch >= 2\.10, this is 2\.9\.1\+cu126"):
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
    text = f'{cuda} does not exist: pip install "fusewright[cu13]" brings the CUDA kernels'
    assert cuda_reason() == (BackendNotBuiltError, text)


def test_cuda_torch_without_cuda(cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    text = f"{cuda} needs a CUDA build of torch, this is {torch.__version__}"
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
    text = f"{cuda} holds code for 80-real, 120, not for Tesla T4 (sm_75)"
    assert cuda_reason() == (BackendLoadError, text)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert cuda_backend(package="cuda_add_on", distribution="cuda-add-on").file == str(cuda)


@pytest.mark.parametrize(
    ("architectures", "serves", "refuses"),
    [
        ("80-real", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        ("86-real, 90a-real", [(8, 6), (8, 9), (9, 0)], [(8, 0), (10, 0)]),
        ("100-real", [(10, 0), (10, 3)], [(9, 0), (11, 0), (12, 0)]),
        ("100a-real", [(10, 0)], [(10, 3)]),
        ("90", [(9, 0), (10, 0), (12, 1)], [(8, 9)]),
        ("80-real, 120", [(8, 0), (12, 0), (12, 1), (13, 0)], [(9, 0), (10, 0)]),
    ],
)
def test_cuda_architectures(
    architectures: str, serves: list[tuple[int, int]], refuses: list[tuple[int, int]]
) -> None:
    assert [c for c in serves if not serves_gpu(architectures, c)] == []
    assert [c for c in refuses if serves_gpu(architectures, c)] == []


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
