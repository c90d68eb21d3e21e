"""The rules of the house: one name an operator in every room, and files that stay readable.

They read the repository that these tests belong to, and hold for an installed wheel as well.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import fusewright
from fresh import python
from fusewright import ops
from fusewright._op import Op

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "fusewright"
NAMES = ops.names()
KERNELS = {  # backend -> its folder, and what a kernel file is called
    "cpu": (ROOT / "src" / "cpu", "{}.cpp"),
    "cuda": (ROOT / "kernels_cuda", "{}.cu"),
    "metal": (ROOT / "kernels_metal", "{}.metal"),
    "triton": (ROOT / "kernels_triton", "{}.py"),
}


@pytest.fixture(params=NAMES)
def op(request: pytest.FixtureRequest) -> Op:
    return ops.load_all()[request.param]


def test_the_repository_is_the_one_under_test() -> None:
    assert sorted(p.stem for p in (PACKAGE / "ops").glob("[!_]*.py")) == NAMES


def test_claimed_backends_have_their_kernel(op: Op) -> None:
    assert op.supports, f"{op.name} has no backend but the reference"
    for backend in op.supports:
        folder, pattern = KERNELS[backend]
        assert (folder / pattern.format(op.name)).exists()


@pytest.mark.parametrize("backend", KERNELS)
def test_kernels_have_their_operator(backend: str) -> None:
    folder, pattern = KERNELS[backend]
    found = {p.stem for p in folder.glob(pattern.format("[!_]*"))}
    assert found == {name for name, op in ops.load_all().items() if backend in op.supports}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("room", ["tests/ops/test_{}.py", "benchmarks/{}.py"])
def test_rooms_have_the_operator(name: str, room: str) -> None:
    assert (ROOT / room.format(name)).exists()


@pytest.mark.parametrize(("room", "prefix"), [("tests/ops", "test_"), ("benchmarks", "")])
def test_rooms_have_nothing_else(room: str, prefix: str) -> None:
    found = {p.stem.removeprefix(prefix) for p in (ROOT / room).glob(f"{prefix}[!_]*.py")}
    assert found <= set(NAMES)


def test_public_function(op: Op) -> None:
    function = getattr(fusewright, op.name)
    assert function.__module__ == f"fusewright.ops.{op.name}"
    signature = inspect.signature(function)
    *_, last = signature.parameters.values()
    assert (last.name, last.kind, last.default) == ("backend", last.KEYWORD_ONLY, None)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
    assert signature.return_annotation is not signature.empty


def test_docstring(op: Op) -> None:
    function = getattr(fusewright, op.name)
    text = inspect.getdoc(function) or ""
    parts = re.split(r"^(Args|Returns|Raises):\n", text, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert set(sections) == {"Args", "Returns", "Raises"}
    documented = set(re.findall(r"^ {4}(\w+): ", sections["Args"], flags=re.M))
    assert documented == set(inspect.signature(function).parameters)
    assert re.search(r"^ {4}ArgumentError: ", sections["Raises"], flags=re.M)
    assert "Source:" in text or "The interface is that of" in text
    assert parts[0].splitlines()[0].endswith(".")


def test_sample_fits_the_schema(op: Op) -> None:
    args = op.sample()
    for argument, value in zip(op.signature.arguments, args, strict=True):
        assert argument.accepts(value), argument


def tracked() -> Iterator[Path]:
    """The repository's text files, without what builds leave behind."""
    rooms = [ROOT / room for room in ("python", "src", "cmake", "tests", "benchmarks", "ci", ".ci")]
    for room in [ROOT, *rooms]:
        for path in room.glob("*" if room is ROOT else "**/*"):
            built = path.suffix in {".so", ".pyc", ".png", ".csv"} or path.name == ".git"
            if path.is_file() and not built:
                yield path


def test_no_path_of_a_machine() -> None:
    """Only what any machine has may be named."""
    private = re.compile(r"(?<![\w.$}])/(?:home|root|work|Users|mnt|data|scratch)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked()
        for line in path.read_text(errors="replace").splitlines()
        if private.search(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("rooms", "suffixes", "most"),
    [
        (("python",), {".py"}, 300),
        (
            ("src", "kernels_cuda", "kernels_metal", "kernels_triton"),
            {".h", ".cpp", ".cu", ".cuh", ".metal", ".mm", ".py"},
            500,
        ),
    ],
)
def test_files_stay_short(rooms: tuple[str, ...], suffixes: set[str], most: int) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for room in rooms
        for path in (ROOT / room).rglob("*")
        if path.suffix in suffixes
    }
    assert lengths
    assert not {name: lines for name, lines in lengths.items() if lines > most}


def test_import_is_light() -> None:
    """`import fusewright` registers no operator and imports nothing heavy beyond torch itself."""
    code = """
import sys, torch
before = set(sys.modules)
import fusewright
assert not [m for m in sys.modules if m.startswith("fusewright.ops.")]
heavy = {"triton", "numpy", "matplotlib", "sklearn", "pywt", "rich", "typer", "torch._dynamo"}
print(sorted(heavy & (set(sys.modules) - before)))
import fusewright._op
assert not fusewright._op.OPS
assert not hasattr(torch.ops.fusewright_cpu, "rms_norm")
"""
    assert python(code) == "[]"


def test_an_operator_imports_only_itself() -> None:
    code = """
import sys, fusewright
fusewright.rms_norm
from fusewright._op import OPS
print(sorted(OPS))
"""
    assert python(code) == "['rms_norm']"


def test_the_package_is_typed() -> None:
    assert resources.files("fusewright").joinpath("py.typed").is_file()


def test_every_operator_is_an_attribute() -> None:
    assert set(NAMES) <= set(dir(fusewright))
    with pytest.raises(AttributeError, match="no attribute 'no_such_operator'"):
        _ = fusewright.no_such_operator
