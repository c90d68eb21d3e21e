"""`explain`: which backend a call takes, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusewright import backends
from fusewright.backends import REFERENCE

if TYPE_CHECKING:
    from fusewright._op import Op


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`; its `str` is the table that people read.

    Attributes:
        op: the operator.
        backend: the backend that the call takes.
        why: why that one.
        reasons: for every other backend, why it does not run.
        file: the library or module of the chosen kernel, None for the reference.
        distribution: the installed package that carries it.
    """

    op: str
    backend: str
    why: str
    reasons: dict[str, str]
    file: str | None
    distribution: str | None

    def __str__(self) -> str:
        lines = [f"{self.op} -> {self.backend}: {self.why}"]
        if self.file is not None:
            lines.append(f"  from {self.file} ({self.distribution})")
        width = max((len(name) for name in self.reasons), default=0)
        lines += [f"  {name:{width}}  {reason}" for name, reason in self.reasons.items()]
        return "\n".join(lines)

    __repr__ = __str__


class Inquiry:
    """Stands in the place of a forced backend: makes an `Op` answer instead of run."""

    class Answer(Exception):  # noqa: N818  a way out of the public function, not an error
        """Carries the explanation out of the public function."""

        def __init__(self, explanation: Explanation) -> None:
            self.explanation = explanation

    def __init__(self, forced: str | None) -> None:
        self.forced = forced

    def answer(self, op: Op, device: str, args: Sequence[Any]) -> Answer:
        """Explain the call that `op` was about to make."""
        reasons = {n: r for n, r in op.reasons(device, args).items() if r is not None}
        chosen = self.forced or op.default(device, args)
        if chosen in reasons:
            why = f"forced, but it can't: {reasons.pop(chosen)}"
        elif self.forced:
            why = "forced"
        elif chosen == REFERENCE:
            why = "no other backend serves this call"
        else:
            why = "the first backend, in measured order, that serves this call"
        for name in op.reasons(device, args):
            if name == chosen or name in reasons:
                continue
            avoided = op.avoided(name, args)
            reasons[name] = avoided or f"could run, comes after {chosen}"
            if avoided and chosen == REFERENCE and not self.forced:
                why = "plain PyTorch is faster here"
        if chosen != REFERENCE:
            reasons[REFERENCE] = "plain PyTorch, could run"
        backend = backends.installed().get(chosen)
        return Inquiry.Answer(
            Explanation(
                op=op.name,
                backend=chosen,
                why=why,
                reasons=reasons,
                file=backend.file if backend else None,
                distribution=backend.distribution if backend else None,
            )
        )

    def plain(self, op: Op, reason: str) -> Answer:
        """Explain a call that only plain PyTorch serves."""
        names = backends.installed()
        why = reason if self.forced in (None, REFERENCE) else f"forced, but it can't: {reason}"
        return Inquiry.Answer(
            Explanation(
                op=op.name,
                backend=self.forced or REFERENCE,
                why=why,
                reasons={name: reason for name in names if name != self.forced},
                file=None,
                distribution=None,
            )
        )


def explain(op: str, *args: Any, backend: str | None = None, **kwargs: Any) -> Explanation:
    """Which kernel the call `fusewright.<op>(*args, **kwargs)` takes, and why; nothing runs.

    Args:
        op: the operator's name.
        args, kwargs: as for the operator's function.
        backend: as the argument of that name of every operator.

    Returns:
        An `Explanation`; print it.

    Raises:
        ArgumentError: no operator or backend has that name, or the arguments are wrong.
    """
    import fusewright
    from fusewright import ops
    from fusewright.errors import fail

    if op not in ops.names():
        fail("explain", "op", repr(op), f"be one of {', '.join(ops.names())}")
    forced = backend if backend is not None else backends.override.name
    if forced is not None:
        backends.check_name(forced)
    before = backends.override.name
    backends.override.name = Inquiry(forced)
    try:
        getattr(fusewright, op)(*args, **kwargs)
    except Inquiry.Answer as answer:
        return answer.explanation
    finally:
        backends.override.name = before
    raise AssertionError(f"{op} returned without choosing a backend")
