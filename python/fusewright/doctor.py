"""`fusewright doctor`: what is installed, what loads, and which backend each operator takes."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fusewright
from fusewright import backends, ops
from fusewright._op import Op
from fusewright.backends import REFERENCE
from fusewright.errors import BackendNotBuiltError


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
class Report:
    """Everything that `doctor` knows."""

    versions: dict[str, str]
    cpu: dict[str, str]
    gpus: list[str]
    backends: list[BackendReport]
    operators: dict[str, dict[str, str]] = field(default_factory=dict)  # op -> device -> backend
    problems: list[str] = field(default_factory=list)

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
    for backend in backends.installed().values():
        # one that was never installed is no problem, one that is installed and fails is
        if backend.error is not None and not isinstance(backend.error, BackendNotBuiltError):
            report.problems.append(f"backend {backend.name}: {backend.error}")
    if not any(b.name == "cpu" and b.found for b in report.backends):
        report.problems.append("the CPU kernels are missing: every operator runs as plain PyTorch")
    return report


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
    for problem in report.problems:
        console.print(Text(problem, style="red"))
