"""`Op`: one declaration an operator, from which dispatch, autograd, vmap and `explain` follow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_dynamo_compiling

from fusewright import _autograd, _registration, backends
from fusewright._check import describe
from fusewright._derivative import Derivative
from fusewright._eager import Plan, unwrapped
from fusewright._schema import Signature, cast, tensors_of
from fusewright._warn import warn_user
from fusewright.backends import REFERENCE, Backend
from fusewright.backends.explain import Inquiry
from fusewright.errors import UnsupportedError, fail

OPS: dict[str, Op] = {}

Reason = str | None

is_functorch_active = torch._C._are_functorch_transforms_active


class Kernels(NamedTuple):
    """The two dispatcher operators of one backend."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None


@dataclass(eq=False)
class Op:
    """An operator: its schemas, its meaning, and what each backend can do of it.

    Attributes:
        name: the operator's one name, also that of its files and kernels.
        forward: the schema without the name, `(Tensor x, Tensor? weight, float eps) -> (Tensor y,
            Tensor rstd)`. The first argument is a tensor. The returns named in `outputs` are the
            user's; the others are kept for the backward. A kernel gives an output that this call
            does not have, never the first, as a tensor of shape (0,); the user gets that, or None.
        backward: the schema of the gradient kernel, or None where there is no gradient. Its
            arguments are found by name: `grad_<output>` (`Tensor?`, None when unused), arguments
            and returns of the forward, and `int needs`, whose bit i asks for the i-th return. Its
            returns are named `grad_<argument>`; one that is not needed has shape (0,). It must
            name every tensor that a gradient depends on.
        reference: pure PyTorch, same arguments, returns the outputs (None for an absent one).
            It is the meaning of the operator and the source of second derivatives.
        fake: same arguments, returns every return with the right shape, dtype and strides.
        outputs: the names of the user's outputs, a prefix of the returns.
        check: raises `ArgumentError` for arguments that are wrong on every backend.
        supports: for every backend that has kernels, a function of the arguments that returns
            None, or the reason why its kernels can't serve them.
        avoid: the same, with the reason why the default should not pick a backend that could.
        fake_backward: as `fake`, for the backward; by default each gradient is `empty_like` its
            argument.
        autocast: 'lower' casts floating-point arguments to autocast's dtype, as a matrix product
            does; None leaves them alone.
        merged: (first, second, total), where two arguments enter only as their sum, which the
            forward returns as `total` when the second is given. The backward then gets the sum in
            place of the first, and its gradient of the first is that of both.
        sample: makes arguments for tests, benchmarks and docs; see `tests/check.py`.
    """

    name: str
    forward: str
    backward: str | None
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    supports: Mapping[str, Callable[..., Reason]]
    sample: Callable[..., tuple[Any, ...]]
    outputs: tuple[str, ...] = ("y",)
    check: Callable[..., None] | None = None
    avoid: Mapping[str, Callable[..., Reason]] = field(default_factory=dict)
    fake_backward: Callable[..., Any] | None = None
    autocast: str | None = None
    merged: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        OPS[self.name] = self
        self.signature = Signature(self.name, self.forward)
        self.backward_signature = (
            Signature(f"{self.name}_backward", self.backward) if self.backward else None
        )
        self.kernels: dict[str, Kernels] = {}
        self.direct: dict[str, Kernels] = {}  # the same, without the Python around them
        self._order: dict[str, list[str]] = {}  # device type -> backends, best first
        self._single = len(self.outputs) == 1
        self._warned: set[str] = set()
        self._plans: dict[tuple[Any, ...], Plan] = {}  # by lengths of lists and types, if right
        for backend in backends.installed().values():
            if backend.name in self.supports and backend.error is None:
                self._attach(backend)
        self._derivative = Derivative(self) if self.backward else None
        self.functions = _autograd.functions_of(self._derivative) if self._derivative else None

    def __call__(self, *args: Any, backend: str | None = None) -> Any:
        """Run on the chosen backend; arguments in the order of the schema, none left out."""
        device, requires_grad, flat, plan = self._inspect(args)
        if self.check is not None:
            self.check(*args)
        if self.autocast is not None and device != "meta" and torch.is_autocast_enabled(device):
            args = cast(args, torch.get_autocast_dtype(device))
            flat = self.signature.flatten(args)[1]
        chosen = self._choose(device, args, backend)
        functions = self.functions
        needs_grad = requires_grad and is_grad_enabled()
        if needs_grad and functions is None:
            raise UnsupportedError(
                f"[{self.name}] has no gradient: call it under torch.no_grad(), "
                "or detach its arguments"
            )
        if chosen == REFERENCE:
            return self.reference(*args)
        if functions is not None and is_functorch_active():
            returns = self._apply(functions.functorch, chosen, args)
        elif functions is None or not needs_grad:
            kernels = self.kernels if plan is None else self.direct
            returns = kernels[chosen].forward(*args)
        elif plan is None:
            returns = self._apply(functions.traced, chosen, args)
        else:
            call = (chosen, plan, args, flat)
            return functions.eager(call, *map(unwrapped, plan.tensors(flat)))
        if isinstance(returns, Tensor):
            return returns
        return returns[0] if self._single else returns[: len(self.outputs)]

    def run_plain(
        self, function: Callable[..., Any], args: Sequence[Any], backend: str | None, reason: str
    ) -> Any:
        """Run a variant that no backend has kernels for, `function` in plain PyTorch.

        Checks, `explain` and a forced backend work as for the operator itself.
        """
        self._inspect(args)
        if self.check is not None:
            self.check(*args)
        forced: Any = backend if backend is not None else backends.forced()
        if isinstance(forced, Inquiry):
            raise forced.plain(self, reason)
        if forced not in (None, REFERENCE):
            backends.check_name(forced)
            raise UnsupportedError(f"[{self.name}] backend {forced!r}: {reason}")
        return function(*args)

    def reasons(self, device: str, args: Sequence[Any]) -> dict[str, Reason]:
        """For every installed backend, None if it could serve this call, else why not."""
        return {name: self._reason(b, device, args) for name, b in backends.installed().items()}

    def default(self, device: str, args: Sequence[Any]) -> str:
        """The backend that runs when nobody asked for one."""
        return self._default(device, args)[0]

    def _default(self, device: str, args: Sequence[Any]) -> tuple[str, bool]:
        """`default`, and whether any backend could serve the call."""
        served = False
        for name in self._order.get(device, ()):
            if self.supports[name](*args) is None:
                if name not in self.avoid or self.avoid[name](*args) is None:
                    return name, True
                served = True
        return REFERENCE, served

    def _choose(self, device: str, args: Sequence[Any], asked: str | None) -> str:
        forced: Any = asked if asked is not None else backends.forced()
        if forced is None:
            chosen, served = self._default(device, args)
            if not served:
                self._tell_fallback(device, args)
            return chosen
        if isinstance(forced, Inquiry):
            raise forced.answer(self, device, args)
        if forced == REFERENCE:
            return REFERENCE
        if forced not in self._order.get(device, ()) or self.supports[forced](*args) is not None:
            self._refuse(forced, device, args)
        return forced

    def _refuse(self, forced: str, device: str, args: Sequence[Any]) -> NoReturn:
        """A forced backend never falls back."""
        backends.check_name(forced)
        backend = backends.installed()[forced]
        reason = self._reason(backend, device, args)
        raise backend.error or UnsupportedError(f"[{self.name}] backend {forced!r}: {reason}")

    def _reason(self, backend: Backend, device: str, args: Sequence[Any]) -> Reason:
        if backend.error is not None:
            return str(backend.error)
        if backend.name not in self.supports:
            return "has no kernel for this operator"
        if backend.name not in self.kernels:
            return f"its library {backend.file} lacks this operator: it is of another version"
        if device not in backend.devices:
            return f"serves {', '.join(backend.devices)} tensors, x is on {device}"
        return self.supports[backend.name](*args)

    def avoided(self, name: str, args: Sequence[Any]) -> Reason:
        """Why the default passes over a backend that could serve this call, or None."""
        return self.avoid[name](*args) if name in self.avoid else None

    def _tell_fallback(self, device: str, args: Sequence[Any]) -> None:
        """The reference runs because nothing else can: say why, once."""
        if device in self._warned:
            return
        if device == "meta":  # no data, nothing to be slow on
            return
        reasons = "; ".join(f"{n}: {r}" for n, r in self.reasons(device, args).items())
        text = f"[{self.name}] runs as plain PyTorch on {device}, no backend serves it ({reasons})"
        if os.environ.get("FUSEWRIGHT_STRICT") == "1":
            raise UnsupportedError(text)
        self._warned.add(device)
        warn_user(text)

    def _inspect(self, args: Sequence[Any]) -> tuple[str, bool, Sequence[Any], Plan | None]:
        """Check types and devices. Every call pays for this, so it is written for speed.

        Returns:
            The type of the device; whether any tensor requires a gradient; the arguments with
            lists spread out; the plan, None while Dynamo reads this, which would guard on it.
        """
        flat: Sequence[Any] = args
        key: tuple[Any, ...] = tuple(map(type, args))
        if self.signature.has_lists:
            lengths, flat = self.signature.flatten(args)
            key = (*lengths, *map(type, flat))
        if is_dynamo_compiling():
            places, plan = self._check_types(args, flat), None
        else:
            plan = self._plans.get(key)
            if plan is None:
                self._check_types(args, flat)
                plan = self._plans[key] = Plan(self._derivative, *self.signature.flatten(args))
            places = plan.places
        first = args[0]
        device = None if first.is_cpu else first.device
        requires_grad = False
        for i in places:
            tensor = flat[i]
            # is_cpu is a third of the cost of comparing devices
            if tensor.device != device if device is not None else not tensor.is_cpu:
                self._fail_on_device(args)
            requires_grad = requires_grad or tensor.requires_grad
        return "cpu" if device is None else device.type, requires_grad, flat, plan

    def _check_types(self, args: Sequence[Any], flat: Sequence[Any]) -> list[int]:
        """Raise unless every value fits its argument; give the places of tensors in `flat`."""
        signature = self.signature
        if len(args) != len(signature.arguments):
            raise TypeError(f"[{self.name}] takes {signature.text}, got {len(args)} arguments")
        for argument, value in zip(signature.arguments, args, strict=True):
            if not argument.accepts(value):
                fail(self.name, argument.name, describe(value), f"be {argument.type}")
        return [i for i, value in enumerate(flat) if isinstance(value, Tensor)]

    def _fail_on_device(self, args: Sequence[Any]) -> NoReturn:
        first = self.signature.names[0]
        for name, value in zip(self.signature.names, args, strict=True):
            for tensor in tensors_of(value):
                if tensor.device != args[0].device:
                    must = f"be {args[0].device} as {first}"
                    fail(self.name, f"{name}.device", tensor.device, must)
        raise AssertionError("all tensors are on one device")

    def _apply(self, function: Any, backend: str, args: Sequence[Any]) -> Any:
        lengths, flat = self.signature.flatten(args)
        return function.apply(backend, lengths, *flat)

    def _attach(self, backend: Backend) -> None:
        """Define the schemas in the backend's namespace; its library holds the implementations."""
        forward = _registration.define(backend, self.signature, self.fake)
        backward = None
        if self.backward_signature is not None:
            fake = self.fake_backward or _registration.default_fake_backward(self)
            backward = _registration.define(backend, self.backward_signature, fake)
        if forward is None or (self.backward_signature is not None and backward is None):
            return
        self.kernels[backend.name] = Kernels(forward, backward)
        self.direct[backend.name] = Kernels(*map(_registration.direct, (forward, backward)))
        for device in backend.devices:
            self._order.setdefault(device, []).append(backend.name)


_KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def supported_dtypes(*args: Any) -> Reason:
    """The rule of `Op.supports` for kernels that take fp32, fp64, bf16 and fp16."""
    for value in args:
        if value is None or not isinstance(value, Tensor) or value.dtype in _KERNEL_DTYPES:
            continue
        if value.is_floating_point():
            return f"its kernels take fp32, fp64, bf16 and fp16, not {value.dtype}"
    return None
