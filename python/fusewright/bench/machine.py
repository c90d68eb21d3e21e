"""Where and with what a run was made."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

import fusewright


@dataclass(frozen=True)
class Machine:
    """The columns that are the same in every row of a run."""

    device: str
    threads: int
    isa: str
    torch: str
    fusewright: str
    commit: str


def describe(device: torch.device, folder: Path) -> Machine:
    """The machine as seen from here, and the commit of the benchmarks in `folder`."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        isa = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    else:
        name, isa = cpu_name(), torch.backends.cpu.get_cpu_capability()
    return Machine(
        device=name,
        threads=torch.get_num_threads(),
        isa=isa,
        torch=torch.__version__,
        fusewright=fusewright.__version__,
        commit=_commit(folder),
    )


def cpu_name() -> str:
    """The processor's name where torch knows it (torch >= 2.12), else its architecture."""
    name = cpu_capabilities().get("cpu_name", "")
    return f"{name} ({platform.machine()})" if name else platform.machine()


def cpu_capabilities() -> dict[str, bool | int | str]:
    """What torch detected of the processor; empty before the torch version that tells."""
    get = getattr(torch.cpu, "get_capabilities", None)
    return dict(get()) if get is not None else {}


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return ""
    return found.stdout.strip()
