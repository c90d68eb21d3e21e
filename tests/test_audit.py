"""`ci/audit.py` refuses the wheels that it is there to refuse."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from fusewright import backends

pytest.importorskip("lief", reason="ci/audit.py needs the extra `wheels`")

ROOT = Path(__file__).resolve().parents[1]
TAG = "py3-none-manylinux_2_28_x86_64"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes Linux libraries as samples")


@pytest.fixture(scope="module")
def audit() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text.split('\nversion = "')[1].split('"')[0]


def golden() -> list[str]:
    return (ROOT / "tests" / "golden" / "wheel-fusewright.txt").read_text().split()


def library() -> Path:
    file = backends.installed()["cpu"].file
    assert file is not None
    return Path(file)


def wheel(
    folder: Path, binary: Path, *, tag: str = TAG, number: str = "", drop: str = "", add: str = ""
) -> Path:
    """A base wheel that holds what it should but for what the arguments say."""
    number = number or version()
    path = folder / f"fusewright-{number}-{tag}.whl"
    requires = f'Requires-Dist: fusewright-cu13=={number}; extra == "cu13"\n'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in golden():
            if name.endswith(".library"):
                archive.write(binary, "fusewright/lib/libfusewright_cpu.so")
            elif not drop or not name.endswith(drop):
                text = requires if name.endswith("METADATA") else ""
                archive.writestr(name.replace("NAME-VERSION", f"fusewright-{number}"), text)
        if add:
            archive.writestr(add, "")
    return path


def test_a_wheel_as_it_should_be(audit: types.ModuleType, tmp_path: Path) -> None:
    audit.BUDGET["fusewright"] = 1 << 40  # the library of a local build is not stripped
    assert list(audit.complaints(wheel(tmp_path, library()))) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tag": "py3-none-linux_x86_64"}, "has the tag py3-none-linux_x86_64"),
        ({"tag": "cp312-cp312-manylinux_2_28_x86_64"}, "has the tag cp312-cp312-"),
        ({"number": "0.0.1"}, "is of version 0.0.1, pyproject.toml is not"),
        ({"drop": "errors.py"}, "lacks fusewright/errors.py"),
        ({"add": "tests/secret.py"}, "holds tests/secret.py"),
    ],
)
def test_what_is_wrong_is_named(
    audit: types.ModuleType, tmp_path: Path, options: dict[str, str], text: str
) -> None:
    audit.BUDGET["fusewright"] = 1 << 40
    (complaint,) = audit.complaints(wheel(tmp_path, library(), **options))
    assert complaint.startswith(text)


def test_budget(audit: types.ModuleType, tmp_path: Path) -> None:
    audit.BUDGET["fusewright"] = 1000
    (complaint,) = audit.complaints(wheel(tmp_path, library()))
    assert complaint.endswith("bytes large, may be 1,000")


def test_symbols_of_torch(audit: types.ModuleType, tmp_path: Path) -> None:
    """A library that serves one build of torch alone: one of torch's own."""
    binary = Path(torch.__file__).parent / "lib" / "libshm.so"
    found = list(audit.complaints(wheel(tmp_path, binary)))
    assert any("needs libc10.so" in text for text in found)
    assert any("does not need libtorch.so" in text for text in found)
    assert any("takes c10::" in text for text in found)


def test_symbols_of_python(audit: types.ModuleType, tmp_path: Path) -> None:
    module = importlib.util.find_spec("torch._C")
    assert module is not None
    assert module.origin is not None
    found = list(audit.complaints(wheel(tmp_path, Path(module.origin))))
    assert any("needs libtorch_python.so" in text for text in found)


def test_the_list_is_what_the_tree_ships() -> None:
    """Seen here before a wheel is built: a new file of the package needs its line in the list."""
    command = ["git", "ls-files", "python/fusewright"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    shipped = {name.removeprefix("python/") for name in listed.stdout.split()}
    assert {n for n in golden() if not n.startswith("NAME-") and ".library" not in n} == shipped


@pytest.mark.parametrize(
    ("symbol", "refused"),
    [
        ("_PyObject_New", True),
        ("PyList_New", True),
        ("__Py_NoneStruct", True),
        ("c10::impl::cow::materialize(int)", True),
        ("?numel@Tensor@at@@QEBA_JXZ", True),
        ("std::vector<c10::SymInt>::~vector()", True),
        ("torch::mps::commit()", True),  # but from the Metal library, below
        ("std::atomic<int>::load()", False),
        ("aoti_torch_get_dim", False),
        ("torch_call_dispatcher", False),
    ],
)
def test_symbols(audit: types.ModuleType, symbol: str, refused: bool) -> None:
    assert audit.is_foreign(symbol) == refused


def test_the_metal_library_may_ask_for_the_stream(audit: types.ModuleType) -> None:
    assert not audit.is_foreign("torch::mps::commit()", "lib/libfusewright_metal.dylib")
    assert audit.is_foreign("torch::mps::event()", "lib/libfusewright_metal.dylib")
