"""One case: every provider is verified, then timed against the others and the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fusewright import backends
from fusewright.backends import REFERENCE, use_backend
from fusewright.bench import floor
from fusewright.bench.calls import BACKWARD, FORWARD, Function, call_of, fresh
from fusewright.bench.case import Case, Peer
from fusewright.bench.machine import Machine
from fusewright.bench.memory import peak_mb
from fusewright.bench.rows import COMPILE, EAGER, FUSEWRIGHT, WRONG, Row
from fusewright.bench.suite import short_name
from fusewright.bench.timing import host_ms, measure
from fusewright.bench.verify import Truth
from fusewright.errors import fail
from fusewright.ops import OPS

_PART = "the part of the work that is the floor"


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
        rows: the times, none of a provider with a fault, except a peer known to be wrong.
        faults: by provider, what is wrong with it.
        missing: by provider, which import failed.
    """

    case: Case
    rows: list[Row] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


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
    step(f"verifying {FUSEWRIGHT}")
    fault, _ = _fault(truth, Peer(case.ours))
    if fault is not None:
        outcome.faults[FUSEWRIGHT] = fault
        return outcome  # nobody's speed is of interest beside a wrong result
    default = _backend_of(case, inputs)
    providers = {FUSEWRIGHT: Peer(case.ours), EAGER: Peer(case.eager)}
    for name, peer in _rivals(case, options, default).items():
        step(f"verifying {name}")
        try:
            fault, ran = _fault(truth, peer)
        except ImportError as error:
            outcome.missing[name] = str(error)
            continue
        if fault is None:
            providers[name] = peer
            continue
        outcome.faults[name] = fault
        if peer.wrong and not ran:  # its forward may
            peer = replace(peer, backward=False)
            _, ran = _fault(truth, peer)
        if peer.wrong and ran:
            providers[f"{name} {WRONG}"] = peer
    for direction in directions:
        rivals = {n: p.call for n, p in providers.items() if p.backward or direction == FORWARD}
        rows = _time(case, rivals, inputs, direction, options, machine, step)
        outcome.rows += [
            replace(r, backend=default) if r.provider == FUSEWRIGHT else r for r in rows
        ]
    return outcome


def _rivals(case: Case, options: Options, default: str) -> dict[str, Peer]:
    """Ours on the backends that are not the default one, torch.compile, and the peers."""
    found: dict[str, Peer] = {}
    for name in OPS[case.op].kernels:
        here = options.device.type in backends.installed()[name].devices
        if here and name not in default.split("+"):
            found[f"{FUSEWRIGHT} {name}"] = Peer(_forced(name, case.ours))
    if options.compile and case.compile is not None:
        found[COMPILE] = Peer(torch.compile(case.eager, dynamic=False, **case.compile))
    return found | dict(case.peers)


def _forced(backend: str, function: Function) -> Function:
    def call(*inputs: Any) -> Any:
        with use_backend(backend):
            return function(*inputs)

    return call


def _fault(truth: Truth, peer: Peer) -> tuple[str | None, bool]:
    """What is wrong with a provider, if anything, and whether it ran at all."""
    try:
        return truth.fault_of(peer.call, gradients=peer.backward), True
    except ImportError:
        raise
    except Exception as error:  # a provider that can't run this case is part of the result
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}", False


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
    hosts: dict[str, float] = {}
    for name, function in providers.items():
        step(f"warming up {name}")
        calls[name] = call_of(function, fresh(inputs, gradients=backward), direction)
        calls[name]()
        peaks[name] = peak_mb(calls[name], options.device)
        hosts[name] = host_ms(calls[name]) if options.device.type == "cuda" else 0.0
    copies = floor.copy_calls(bytes_moved, options.device)
    calls |= copies
    if case.floor is not None:
        calls[_PART] = call_of(case.floor, fresh(inputs, gradients=backward), direction)
        calls[_PART]()
    times = measure(calls, options.device, options.seconds, lambda: step("timing"))
    arithmetic = 0.0
    if case.floor is not None:
        arithmetic = times.pop(_PART).p50
    elif flops:
        arithmetic = 1e3 * flops / floor.gemm_rate(case.dtype, options.device)
    floor_ms = max(min(times.pop(name).p50 for name in copies), arithmetic)
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
            host_ms=hosts[name],
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
