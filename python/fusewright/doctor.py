"""`fusewright doctor`: what is installed, what loads, which backend each operator takes.

What does not fit together is named with the one command that mends it.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fusewright
from fusewright import backends, ops
from fusewright._op import Op
from fusewright.backends import REFERENCE
from fusewright.backends._library import reinstall
from fusewright.backends.cuda import code_for
from fusewright.errors import BackendLoadError, BackendNotBuiltError


@dataclass
class BackendReport:
    """One backend: the file that was loaded, or why none was."""

    name: str
    found: bool
    file: str | None
    distribution: str
    reason: str | None
    details: dict[str, str]


@dataclass
class Problem:
    """Something that should work and does not, and the command that mends it, if one does."""

    reason: str
    remedy: str = ""


@dataclass
class Report:
    """Everything that `doctor` knows."""

    versions: dict[str, str]
    cpu: dict[str, str]
    gpus: list[str]
    backends: list[BackendReport]
    operators: dict[str, dict[str, str]] = field(default_factory=dict)  # op -> device -> backend
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Nothing that should work is broken."""
        return not self.problems


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _examine_backend(backend: backends.Backend) -> BackendReport:
    return BackendReport(
        name=backend.name,
        found=backend.error is None,
        file=backend.file,
        distribution=backend.distribution,
        reason=None if backend.error is None else str(backend.error),
        details=backend.describe() if backend.error is None else {},
    )


def examine() -> Report:
    """Look at the installation; loads every backend that can be loaded."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    report = Report(
        versions={
            "fusewright": fusewright.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "triton": _version("triton"),
            "CUDA of torch": torch.version.cuda or "none",
        },
        cpu={
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        },
        gpus=gpus,
        backends=[_examine_backend(b) for b in backends.installed().values()],
    )
    devices = ["cpu", *(["cuda"] if gpus else [])]
    for name, op in ops.load_all().items():
        report.operators[name] = {device: _serving(op, device) for device in devices}
    report.notes = list(_code_of_gpus())
    report.problems = list(_problems(report))
    return report


def _code_of_gpus() -> Iterator[str]:
    """Where the CUDA kernels run through PTX: the first call waits for the driver."""
    cuda = backends.installed()["cuda"]
    if cuda.error is not None:
        return
    architectures = cuda.describe()["architectures"]
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        code = code_for(architectures, capability)
        if code != "binary":
            how = (
                "is served through PTX, which the driver compiles at the first call"
                if code == "PTX"
                else "has no kernel there, Triton serves it"
            )
            name = f"{torch.cuda.get_device_name(index)} (sm_{capability[0]}{capability[1]})"
            yield f"CUDA kernels for {architectures}: {name} {how}"


def _problems(report: Report) -> Iterator[Problem]:
    for backend in backends.installed().values():
        error = backend.error
        # one that was never installed is no problem, one that is installed and fails is
        if isinstance(error, BackendLoadError):
            yield Problem(f"backend {backend.name}: {error.reason}", error.remedy)
    if isinstance(backends.installed()["cpu"].error, BackendNotBuiltError):
        yield Problem(
            "the CPU kernels are missing: every operator runs as plain PyTorch",
            reinstall("fusewright"),
        )
    served = {choice.get("cuda") for choice in report.operators.values()}
    if report.gpus and served == {REFERENCE}:
        # of an add-on for other GPUs the remedy is Triton, where there is no add-on it is one
        error = backends.installed()["cuda"].error
        remedy = error.remedy if isinstance(error, BackendNotBuiltError) else ""
        yield Problem(f"no kernels serve {', '.join(report.gpus)}: plain PyTorch runs", remedy)


def _serving(op: Op, device: str) -> str:
    """The first backend that serves the operator, also where a call had better not use it."""
    reasons = op.reasons(device, op.sample(device=device))
    return next((name for name, reason in reasons.items() if reason is None), REFERENCE)


def to_json(report: Report) -> str:
    """The report as JSON, with `healthy` beside its fields."""
    return json.dumps({**asdict(report), "healthy": report.healthy}, indent=2)


def render(report: Report, console: Console) -> None:
    """Print the report as tables."""
    facts = Table("", "", title="versions and machine", show_header=False)
    for key, value in {**report.versions, **report.cpu}.items():
        facts.add_row(key, value)
    facts.add_row("GPUs", ", ".join(report.gpus) or "none")
    console.print(facts)

    found = Table("backend", "state", "from", title="backends")
    for backend in report.backends:
        # Text: a reason may name an extra in brackets, which is no markup
        state = Text("found") if backend.found else Text(str(backend.reason), style="yellow")
        for key, value in backend.details.items():
            state.append(f", {key} {value}")
        found.add_row(backend.name, state, Text(backend.file or ""))
    found.add_row(REFERENCE, "plain PyTorch, always there", "")
    console.print(found)

    devices = sorted({device for choice in report.operators.values() for device in choice})
    chosen = Table("operator", *devices, title="the backend that serves each operator")
    for name, choice in sorted(report.operators.items()):
        chosen.add_row(name, *(choice[device] for device in devices))
    console.print(chosen)
    for note in report.notes:
        console.print(Text(note))
    for problem in report.problems:
        console.print(Text(problem.reason, style="red"))
        if problem.remedy:  # on a line of its own, not wrapped: it is there to be copied
            console.print(Text("  " + problem.remedy, style="bold"), soft_wrap=True)
