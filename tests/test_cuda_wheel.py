"""The CUDA kernels' wheel goes with the base wheel: one version, built with the same torch."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from fusewright.backends import ENTRY_POINTS

ROOT = Path(__file__).resolve().parents[1]
BASE = (ROOT / "pyproject.toml").read_text()
ADD_ON = (ROOT / "kernels_cuda" / "pyproject.toml").read_text()


def only(pattern: str, text: str) -> str:
    """What the one match of the pattern holds."""
    (found,) = re.findall(pattern, text, flags=re.M)
    return str(found)


def test_one_version() -> None:
    """It stands in the root pyproject.toml; all else is made of it when the wheels are built."""
    version = only(r'^version = "(.*)"$', BASE)
    pattern = only(r"^regex = '(.*)'$", ADD_ON).replace("?P<value>", "")
    assert only(pattern, BASE) == version
    assert re.findall(r"^version = ", ADD_ON, flags=re.M) == []
    assert only(r'^result = \["(.*)"\]$', ADD_ON) == "fusewright=={project[version]}"
    assert only(r"cu13 = (.*) }$", BASE) == '["fusewright-cu13=={project[version]}"]'


def test_the_installed_extra_has_the_version() -> None:
    try:
        requires = importlib.metadata.requires("fusewright") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fusewright is not installed but imported from its source tree")
    version = only(r'^version = "(.*)"$', BASE)
    assert f'fusewright-cu13=={version}; extra == "cu13"' in requires


@pytest.mark.parametrize("requirement", ["scikit-build-core", "torch"])
def test_built_with_the_same(requirement: str) -> None:
    pattern = rf'^requires = \[.*"({requirement}==[^"]*)"'
    assert only(pattern, ADD_ON) == only(pattern, BASE)


def test_cutlass_is_the_one_that_a_local_build_asks_for() -> None:
    cmake = (ROOT / "cmake" / "Cuda.cmake").read_text()
    asked = only(r"pip install (nvidia-cutlass==[\d.]+) --no-deps", cmake)
    assert f'"{asked}"' in only(r"^requires = \[(.*)\]$", ADD_ON)


def test_announced() -> None:
    assert f'[project.entry-points."{ENTRY_POINTS}"]\ncuda = "fusewright_cu13:BACKEND"' in ADD_ON


def test_the_base_wheel_builds_no_cuda() -> None:
    assert only(r'^cmake\.define\.FUSEWRIGHT_CUDA = "(.*)"$', BASE) == "OFF"
