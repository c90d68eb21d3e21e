"""Installations that are broken: the package imports, says why, and the next backend serves."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusewright
from fresh import python, run
from fusewright import backends
from fusewright.backends.cuda import cuda_backend
from fusewright.errors import BackendLoadError

ROOT = Path(__file__).resolve().parents[1]
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
    broken(package, f"{library} is incomplete: pip install --force-reinstall --no-deps fusewright")


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


def doctor(*folders: Path) -> tuple[str, list[dict[str, str]]]:
    """The backend of rms_norm on the CPU, and the problems, as `fusewright doctor --json` says."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    result = run("from fusewright.cli import app; app(['doctor', '--json'])", PYTHONPATH=path)
    report = json.loads(result.stdout)
    assert result.returncode == int(bool(report["problems"])), result.stderr
    return report["operators"]["rms_norm"]["cpu"], report["problems"]


def install(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    """What pip leaves of a distribution beside its files."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)


def test_doctor_names_the_command_for_a_truncated_library(package: Path) -> None:
    library = library_in(package)
    install(package, "fusewright", "9.9.9")
    os.truncate(library, 500_000)
    serving, (problem,) = doctor(package)
    assert serving == "reference"
    assert problem == {
        "reason": f"backend cpu: {library} is incomplete",
        "remedy": "pip install --force-reinstall --no-deps fusewright==9.9.9",
    }


def test_add_on_of_another_version(package: Path) -> None:
    """pip only warns where it leaves such a pair behind."""
    install(package, "fusewright", "9.9.9")
    points = "[fusewright.backends]\ncuda = fusewright_cu13:BACKEND\n"
    install(package, "fusewright-cu13", "9.9.8", points)
    add_on = package / "fusewright_cu13"
    shutil.copytree(ROOT / "kernels_cuda" / "fusewright_cu13", add_on)
    (add_on / "lib").mkdir()
    (add_on / "lib" / "libfusewright_cuda.so").touch()
    serving, (problem,) = doctor(package)
    assert serving == "cpu"
    assert problem == {
        "reason": "backend cuda: fusewright-cu13 9.9.8 is installed beside fusewright 9.9.9, "
        "must be of the same version",
        "remedy": 'pip install "fusewright[cu13]==9.9.9"',
    }
    text = python(EXPLAIN, PYTHONPATH=str(package))
    assert text.startswith("rms_norm -> cpu: ")
    assert problem["remedy"] in python(
        CALL + "print(fusewright.backends.installed()['cuda'].error)", PYTHONPATH=str(package)
    )


def test_truncated_add_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a torch that could load it; the loader would end the process with a bus error."""
    (tmp_path / "short_add_on" / "lib").mkdir(parents=True)
    (tmp_path / "short_add_on" / "__init__.py").touch()
    library = tmp_path / "short_add_on" / "lib" / "libfusewright_cuda.so"
    file = backends.installed()["cpu"].file
    assert file is not None
    library.write_bytes(Path(file).read_bytes()[:500_000])
    monkeypatch.syspath_prepend(tmp_path)
    version = fusewright.__version__
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    error = cuda_backend(package="short_add_on", distribution="fusewright-cu13").error
    assert isinstance(error, BackendLoadError)
    assert error.reason == f"{library} is incomplete"
    remedy = f"pip install --force-reinstall --no-deps fusewright-cu13=={version}"
    assert error.remedy == remedy


def test_triton_that_can_not_be_imported(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise OSError('libtriton.so: no such file')")
    serving, problems = doctor(tmp_path)
    assert serving == "cpu"
    (problem,) = (p for p in problems if "triton" in p["reason"])
    reason = "triton can't be imported: OSError: libtriton.so: no such file"
    assert problem["reason"] == f"backend triton: {reason}"
    assert problem["remedy"].startswith("pip install --force-reinstall --no-deps triton")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    forced = """
y = fusewright.rms_norm(x)
try:
    fusewright.rms_norm(x, backend="triton")
except fusewright.BackendLoadError as error:
    print(error)
"""
    explained, raised = python(EXPLAIN + forced, PYTHONPATH=path).split("plain PyTorch, could run")
    assert explained.startswith("rms_norm -> cpu: ")
    assert reason in raised


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permissions there")
def test_read_only_site_packages(package: Path) -> None:
    """Nothing is written beside the package; where that can't be, all goes on as before."""
    home = package / "home"
    home.mkdir()
    names = sorted(str(p) for p in package.rglob("*"))
    code = CALL + "y = fusewright.rms_norm(x); print(fusewright.explain('rms_norm', x).backend)"
    arguments = [sys.executable, "-W", "error", "-c", code]
    if os.geteuid() == 0:  # permissions do not hold root, a read-only mount does
        if shutil.which("unshare") is None:
            pytest.skip("root needs unshare to see a folder as read-only")
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/x" && "$@"'
        arguments = ["unshare", "--mount", "sh", "-c", mount, str(package), *arguments]
    else:
        for folder in (package, *(p for p in package.rglob("*") if p.is_dir())):
            folder.chmod(0o555)
    environment = {**os.environ, "PYTHONPATH": str(package), "HOME": str(home)}
    result = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    for folder in (package, *(p for p in package.rglob("*") if p.is_dir())):
        folder.chmod(0o755)  # or pytest could not remove it
    if "unshare failed" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no mounts here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "cpu"
    assert sorted(str(p) for p in package.rglob("*")) == names
