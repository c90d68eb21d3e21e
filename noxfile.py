"""Sessions for developers: `nox -s lint`, `test`, `wheel`, `bench`, `docs`.

Each runs in a fresh virtual environment, against the package as pip installs it.
"""

from __future__ import annotations

import nox

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
TORCH = "torch==2.13.0"

nox.options.sessions = ["lint", "test"]
nox.options.error_on_missing_interpreters = False


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, types and bans, without building the kernels."""
    tools = PROJECT["optional-dependencies"]
    session.install(TORCH, *tools["lint"], "nox", "numpy", "pytest", "hypothesis", "rich", "typer")
    session.run("ci/lint", *session.posargs, external=True)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def test(session: nox.Session) -> None:
    """The tests, against the installed wheel; `nox -s test-3.11 -- -k rms_norm` for some."""
    session.install(TORCH)
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """The sdist and the wheels in dist/, audited and tried; `nox -s wheel -- --no-cuda`."""
    session.install(*PROJECT["optional-dependencies"]["wheels"])
    session.run("ci/build_wheels", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Every operator beside eager PyTorch and torch.compile."""
    session.install(TORCH)
    session.install(".[bench]")
    session.run("fusewright", "bench", "--device", "cpu", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Every file and heading that the documentation links to exists."""
    session.run("python", "ci/links.py")
