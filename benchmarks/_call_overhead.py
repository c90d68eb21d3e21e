"""What one call costs beyond its work: rms_norm of 16 elements beside torch.add and torch's own.

    python benchmarks/_call_overhead.py

The layers stand below each other: the kernel in the dispatcher, `Op` (checks, choice of a backend,
autograd), the public function (options), the module. No operator's name, so `fusewright bench`
leaves this file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fusewright
from fusewright.bench.timing import Times, measure
from fusewright.ops.rms_norm import RMS_NORM

SIZE = 16
SECONDS = 4.0  # a direction
BASE = "torch.add"


def calls(x: Tensor, weight: Tensor) -> dict[str, Callable[[], Any]]:
    """The rivals by name, on the same tensors."""
    options = (None, 1, 1e-6, "none", 0.0, False)
    kernel = RMS_NORM.kernels["cpu"].forward
    module = fusewright.nn.RMSNorm(SIZE, eps=1e-6)
    module.weight = torch.nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    return {
        BASE: lambda: torch.add(x, weight),
        "F.rms_norm": lambda: F.rms_norm(x, (SIZE,), weight, 1e-6),
        "kernel op": lambda: kernel(x, weight, *options)[0],
        "Op": lambda: RMS_NORM(x, weight, *options)[0],
        "fusewright.rms_norm": lambda: fusewright.rms_norm(x, weight, eps=1e-6),
        "nn.RMSNorm": lambda: module(x),
    }


def forward() -> dict[str, Times]:
    """Without a gradient."""
    with torch.no_grad():
        return measure(calls(torch.randn(SIZE), torch.randn(SIZE)), torch.device("cpu"), SECONDS)


def forward_and_backward() -> dict[str, Times]:
    """With the gradients of both arguments; the kernel alone has none."""
    x, weight = (torch.randn(SIZE, requires_grad=True) for _ in range(2))
    g = torch.randn(SIZE)

    def training(call: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: call().backward(g)

    rivals = {n: training(c) for n, c in calls(x, weight).items() if n != "kernel op"}
    return measure(rivals, torch.device("cpu"), SECONDS)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    table = Table(title=f"µs a call, {SIZE} elements", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("call")
    for name in ("no gradient", f"/ {BASE}", "fwd+bwd", f"/ {BASE}"):
        table.add_column(name, justify="right")
    plain, trained = forward(), forward_and_backward()
    for name, times in plain.items():
        cells = [f"{1e3 * times.p50:.2f}", f"{times.p50 / plain[BASE].p50:.1f}"]
        if name in trained:
            both = trained[name].p50
            cells += [f"{1e3 * both:.2f}", f"{both / trained[BASE].p50:.1f}"]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
