"""One case: every provider is verified, then timed against the others and the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusewright.backends import REFERENCE
from fusewright.bench import floor
from fusewright.bench.calls import BACKWARD, FORWARD, Function, call_of, fresh
from fusewright.bench.case import Case
from fusewright.bench.machine import Machine
from fusewright.bench.memory import peak_mb
from fusewright.bench.rows import COMPILE, EAGER, FUSEWRIGHT, Row
from fusewright.bench.suite import short_name
from fusewright.bench.timing import measure
from fusewright.bench.verify import Truth
from fusewright.errors import fail

_FLOOR = "floor"


def parse_passes(text: str) -> list[str]:
    """The directions of 'forward', 'backward' or 'forward,backward'.

    The backward is timed together with its forward.

    Raises:
        ArgumentError: anything else.
    """
    known = {"forward": FORWARD, "backward": BACKWARD}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            fail("bench", "--passes", repr(name), "be among forward, backward")
    return [known[name] for name in names]


@dataclass(frozen=True)
class Options:
    """How a run is made.

    Attributes:
        device: where.
        directions: 'forward', 'forward+backward' or both.
        seconds: the time for the samples of one case and direction.
        compile: time torch.compile of eager, too.
    """

    device: torch.device
    directions: Sequence[str] = (FORWARD, BACKWARD)
    seconds: float = 2.0
    compile: bool = True


@dataclass
class Outcome:
    """What came of one case.

    Attributes:
        case: which one.
        rows: the times, none of a provider with a fault.
        faults: by provider, why it has no times.
    """

    case: Case
    rows: list[Row] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def hold(case: Case, options: Options, machine: Machine, step: Callable[[str], None]) -> Outcome:
    """Verify and time one case.

    Args:
        case: which one.
        options: how.
        machine: the columns that say where.
        step: is told what happens next, and called between samples.
    """
    torch._dynamo.reset()  # no case profits, or suffers, from what another one compiled
    outcome = Outcome(case)
    torch.manual_seed(0)
    inputs = case.make(options.device)
    directions = [d for d in options.directions if d == FORWARD or case.bytes_backward is not None]
    gradients = BACKWARD in directions
    step("verifying")
    truth = Truth(case.eager, inputs, gradients=gradients)
    providers: dict[str, Function] = {}
    for name, function in _providers(case, options).items():
        step(f"verifying {name}")
        fault = None if name == EAGER else _fault(truth, function)
        if fault is None:
            providers[name] = function
        else:
            outcome.faults[name] = fault
    if FUSEWRIGHT in outcome.faults:
        return outcome  # nobody's speed is of interest beside a wrong result
    backend = _backend_of(case, inputs)
    for direction in directions:
        rows = _time(case, providers, inputs, direction, options, machine, step)
        outcome.rows += [
            replace(r, backend=backend) if r.provider == FUSEWRIGHT else r for r in rows
        ]
    return outcome


def _providers(case: Case, options: Options) -> dict[str, Function]:
    found: dict[str, Function] = {FUSEWRIGHT: case.ours, EAGER: case.eager}
    if options.compile:
        found[COMPILE] = torch.compile(case.eager, dynamic=False)
    return found | dict(case.peers)


def _fault(truth: Truth, function: Function) -> str | None:
    try:
        return truth.fault_of(function)
    except Exception as error:  # a provider that can't run this case is part of the result
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _time(
    case: Case,
    providers: dict[str, Function],
    inputs: Sequence[Any],
    direction: str,
    options: Options,
    machine: Machine,
    step: Callable[[str], None],
) -> list[Row]:
    backward = direction == BACKWARD
    bytes_moved = (case.bytes_backward or 0) if backward else case.bytes
    flops = case.flops_backward if backward else case.flops
    calls: dict[str, Callable[[], Any]] = {}
    peaks: dict[str, float] = {}
    for name, function in providers.items():
        step(f"warming up {name}")
        calls[name] = call_of(function, fresh(inputs, gradients=backward), direction)
        calls[name]()
        peaks[name] = peak_mb(calls[name], options.device)
    calls[_FLOOR] = floor.copy_call(bytes_moved, options.device)
    times = measure(calls, options.device, options.seconds, lambda: step("timing"))
    arithmetic = 1e3 * flops / floor.gemm_rate(case.dtype, options.device) if flops else 0.0
    floor_ms = max(times.pop(_FLOOR).p50, arithmetic)
    return [
        Row(
            op=case.op,
            backend="",
            direction=direction,
            shape=case.shape,
            dtype=short_name(case.dtype),
            provider=name,
            p20_ms=t.p20,
            p50_ms=t.p50,
            p80_ms=t.p80,
            peak_mb=peaks[name],
            floor_ms=floor_ms,
            bytes=bytes_moved,
            flops=flops,
            **asdict(machine),
        )
        for name, t in times.items()
    ]


class _Namespaces(TorchDispatchMode):
    """Notes the dispatcher namespaces of a call: those of our backends tell which one ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace.startswith("fusewright_") and func.namespace not in self.seen:
            self.seen.append(func.namespace)
        return func(*args, **(kwargs or {}))


def _backend_of(case: Case, inputs: Sequence[Any]) -> str:
    with torch.no_grad(), _Namespaces() as namespaces:
        case.ours(*fresh(inputs, gradients=False))
    names = [n.removeprefix("fusewright_") for n in namespaces.seen]
    return "+".join(names) or REFERENCE
