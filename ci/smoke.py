"""Install wheels into a fresh environment and run them there, as someone who only has the wheels.

No compiler is on the path, no source tree is near, nothing is imported but what pip installed. With
`--pytest` the operators' tests run there too, copied away from their tree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Without triton, of which each torch wants a version of its own.
TEST_TOOLS = ("hypothesis", "numpy", "pytest", "pytest-timeout", "PyWavelets")

# Every operator, forward and backward, on the compiled kernels; none may fall to plain PyTorch.
OPERATORS = """
import sys, shutil
import fusewright
compilers = [c for c in ("cc", "gcc", "g++", "clang", "cl", "nvcc", "ninja") if shutil.which(c)]
assert not compilers, f"on the path: {compilers}"
assert fusewright.__file__.startswith(sys.argv[1]), fusewright.__file__
import torch
from check import check_values
from fusewright import backends, ops
torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
for name, op in ops.load_all().items():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        check_values(op, op.sample(dtype=dtype), "cpu")
print(f"torch {torch.__version__}, Python {sys.version.split()[0]}: "
      f"{len(ops.names())} operators right, {backends.installed()['cpu'].describe()}")
"""


class Fresh:
    """A virtual environment in a folder of its own."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        environment = folder / "venv"
        if python:
            subprocess.run([python, "-m", "venv", environment], check=True)
        else:
            venv.create(environment, with_pip=True)
        bin_folder = environment / ("Scripts" if os.name == "nt" else "bin")
        self.python = bin_folder / ("python.exe" if os.name == "nt" else "python")
        dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "FUSEWRIGHT_BACKEND")
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        system = os.environ.get("SYSTEMROOT", "")
        path = os.pathsep.join([str(bin_folder), *([f"{system}\\System32"] if system else [])])
        self.environment = {**kept, "PATH": path, "FUSEWRIGHT_STRICT": "1"}

    def pip(self, *requirements: str) -> None:
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)

    def run(self, *command: str, check: bool = True) -> str:
        """What Python prints; it must succeed."""
        result = subprocess.run(
            [self.python, *command],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if check and result.returncode:
            sys.exit(f"{result.stdout}\npython {' '.join(command)[:200]} failed")
        return result.stdout.strip()


def check_add_on(fresh: Fresh, wheels: list[Path]) -> None:
    """Beside a torch without CUDA an add-on is skipped, and `doctor` says why and what to do."""
    fresh.pip("--no-deps", *map(str, wheels))
    fresh.pip("rich>=13", "typer>=0.12")
    report = json.loads(fresh.run("-m", "fusewright", "doctor", "--json", check=False))
    cuda = next(b for b in report["backends"] if b["name"] == "cuda")
    if cuda["found"]:
        print(f"the add-on serves this machine's GPU: {cuda['details']}")
        return
    if report["versions"]["CUDA of torch"] == "none":
        wanted = "needs a CUDA build of torch"
    else:
        wanted = "finds no GPU"
    if cuda["distribution"] != "fusewright-cu13" or wanted not in cuda["reason"]:
        sys.exit(f"the add-on is not skipped for the reason {wanted!r}: {cuda}")
    remedies = [p["remedy"] for p in report["problems"] if cuda["name"] in p["reason"]]
    print(f"the add-on is skipped: {cuda['reason']}; to mend: {remedies}")
    if report["operators"]["rms_norm"]["cpu"] != "cpu":
        sys.exit(f"beside the add-on the CPU kernels do not serve: {report['operators']}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Try wheels in a fresh environment.")
    parser.add_argument("wheels", nargs="+", type=Path, help="the base wheel, and add-ons")
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip is asked for")
    parser.add_argument("--python", default="", help="the interpreter, this one by default")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, help="run pytest with what follows")
    args = parser.parse_args()
    wheels = [w.resolve() for w in args.wheels]
    (base,) = (w for w in wheels if w.name.startswith("fusewright-") and w.suffix == ".whl")
    add_ons = [w for w in wheels if w != base]

    with tempfile.TemporaryDirectory() as folder:
        fresh = Fresh(Path(folder).resolve(), args.python)
        fresh.pip(args.torch)
        fresh.pip(args.torch, str(base))
        shutil.copy(ROOT / "tests" / "check.py", fresh.work)
        print(fresh.run("-c", OPERATORS, str(fresh.folder)))
        if add_ons:
            check_add_on(fresh, add_ons)
        if args.pytest is not None:
            fresh.pip(args.torch, str(base), *TEST_TOOLS)
            shutil.copytree(ROOT / "tests", fresh.work / "tests")
            shutil.copy(ROOT / "pyproject.toml", fresh.work)
            print(fresh.run("-m", "pytest", "-q", *args.pytest))


if __name__ == "__main__":
    main()
