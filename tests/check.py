"""The one body that tests every operator: its kernels against the reference in float64.

`check_op` runs everything; the parts can be called alone. `args` are the operator's arguments in
the order of its schema, as `Op.sample` makes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fusewright._derivative import as_tuple
from fusewright._op import Op
from fusewright._schema import tensors_of

# The largest relative error, in the norm of the whole tensor, that is right for an exact dtype.
EXACT = {torch.float64: 1e-12, torch.float32: 2e-6}
# How many times PyTorch's own error on the same input: the bound for bf16 and fp16, and where a
# sum that cancels makes the others larger.
FACTOR = {torch.float64: 4.0, torch.float32: 4.0, torch.bfloat16: 2.0, torch.float16: 2.0}

# How many steps of the dtype an element may be off where few elements leave nothing to average, of
# one if it is smaller: where it cancels it has no relative error to speak of.
STEPS = {torch.float64: 256, torch.float32: 256, torch.bfloat16: 1, torch.float16: 2}


def map_tensors(function: Callable[[Tensor], Tensor], args: Sequence[Any]) -> list[Any]:
    """The arguments with `function` applied to every floating-point tensor, also in lists."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value) if value.is_floating_point() else value
        return [convert(v) for v in value] if isinstance(value, (list, tuple)) else value

    return [convert(a) for a in args]


def double(t: Tensor) -> Tensor:
    """In float64, on the CPU where the tensor's device has none."""
    return (t.cpu() if t.is_mps else t).detach().double()


def in_double(args: Sequence[Any]) -> list[Any]:
    """The arguments in float64, all of them on the CPU where their device has none."""

    def convert(value: Any) -> Any:
        if isinstance(value, Tensor):
            here = value.cpu() if value.is_mps else value
            return here.double() if here.is_floating_point() else here
        return [convert(v) for v in value] if isinstance(value, (list, tuple)) else value

    return [convert(a) for a in args]


def relative_error(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖ / ‖truth‖ in float64; NaN and inf must agree in place and sign."""
    value, truth = double(value), double(truth)
    assert value.shape == truth.shape, f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}"
    finite = truth.isfinite()
    odd_value, odd_truth = value[~finite], truth[~finite]
    if not torch.equal(odd_value.nan_to_num(7, 8, 9), odd_truth.nan_to_num(7, 8, 9)):
        return float("inf")
    difference = (value[finite] - truth[finite]).norm()
    if difference == 0:
        return 0.0
    norm = truth[finite].norm()
    return float(difference / norm) if norm > 0 else float("inf")


def assert_close(
    name: str,
    value: Tensor,
    own: Tensor,
    truth: Tensor,
    computed: torch.dtype = torch.float64,
    steps: float = 0,
) -> None:
    """`value` is as near to the float64 `truth` as its dtype, and that of the sums, allow.

    Args:
        own: what PyTorch itself computes in that dtype, whose error bounds the 16-bit ones.
        computed: what the sums are kept in, however precise a dtype then holds them.
        steps: how far an element may be off where it is below one, and for a larger one the part
            of it.
    """
    assert value.dtype == own.dtype, f"{name} is {value.dtype}, expected {own.dtype}"
    error = relative_error(value, truth)
    least = max(EXACT[computed], EXACT.get(value.dtype, torch.finfo(value.dtype).eps / 2))
    bound = max(FACTOR[value.dtype] * relative_error(own, truth), least)
    finite = truth.detach().isfinite()
    if steps and error > bound and torch.equal(finite, double(value).isfinite()):
        expected = double(truth)[finite]
        error = float((double(value)[finite] - expected).norm())
        allowed = steps * expected.abs().clamp(min=1).norm()
        bound = max(bound * float(expected.norm()), float(allowed))
    assert error <= bound, f"{name}: relative error {error:.3g}, allowed {bound:.3g}"


def check_values(
    op: Op, args: Sequence[Any], backend: str, gradients: bool = True, few: int = 0
) -> None:
    """Outputs and gradients against the reference in float64, on the same inputs.

    Args:
        few: for tensors of at most so many elements, which may cancel, `STEPS` counts as well.

    Outputs of `torch.empty` are full of NaN while tests run (see conftest), so an element that a
    kernel forgets shows.
    """
    gradients = gradients and op.backward_signature is not None
    ours = _run(op, lambda *a: op(*a, backend=backend), args, gradients)
    own = _run(op, op.reference, args, gradients)
    truth = _run(op, op.reference, in_double(args), gradients)
    assert len(ours) == len(own) == len(truth)
    for (name, value), (_, own_value), (_, true_value) in zip(ours, own, truth, strict=True):
        computed = torch.float64 if args[0].dtype is torch.float64 else torch.float32
        used = [value.dtype, computed]
        if op.autocast == "lower":  # a product is rounded as x is, whatever the other dtypes
            used.append(args[0].dtype)
        steps = max(STEPS[d] * torch.finfo(d).eps for d in used) if value.numel() <= few else 0
        assert_close(f"{op.name} {name}", value, own_value, true_value, computed, steps)


def _run(
    op: Op, function: Callable[..., Any], args: Sequence[Any], gradients: bool
) -> list[tuple[str, Tensor]]:
    """The named outputs and arguments written to, then the named gradients.

    The cotangents depend on shapes alone.
    """
    leaves = map_tensors(lambda t: t.detach().requires_grad_(gradients), args)
    written = re.findall(r"Tensor\(\w!\) (\w+)", op.forward)
    for name in written:  # the arguments stay as they were
        place = op.signature.names.index(name)
        leaves[place] = _copy(leaves[place])
    outputs = [
        (name, out)
        for name, out in zip(op.outputs, as_tuple(function(*leaves)), strict=True)
        if out is not None and not (out.ndim == 1 and out.numel() == 0)
    ]
    outputs += [(name, leaves[op.signature.names.index(name)]) for name in written]
    if not gradients:
        return outputs
    with_grad = [out for _, out in outputs if out.requires_grad]
    generator = torch.Generator().manual_seed(0)
    # drawn in bf16's precision, so that every dtype gets the very same cotangents
    cotangents = [
        torch.randn(out.shape, generator=generator).bfloat16().to(out.device, out.dtype)
        for out in with_grad
    ]
    wanted = [
        (f"gradient of {a.name}", t)
        for a, value in zip(op.signature.arguments, leaves, strict=True)
        for t in tensors_of(value)
        if t.requires_grad
    ]
    found = torch.autograd.grad(with_grad, [t for _, t in wanted], cotangents, allow_unused=True)
    named = zip(wanted, found, strict=True)
    return outputs + [(name, torch.zeros_like(t) if g is None else g) for (name, t), g in named]


def _copy(t: Tensor) -> Tensor:
    """The same values and strides in other memory; `clone` would give a slice dense strides."""
    storage = t.untyped_storage()
    whole = torch.empty(0, dtype=torch.uint8, device=t.device).set_(storage)
    memory = whole.clone().untyped_storage()
    return torch.empty(0, dtype=t.dtype, device=t.device).set_(
        memory, t.storage_offset(), t.shape, t.stride()
    )


def check_gradients(op: Op, args: Sequence[Any], backend: str, second: bool = True) -> None:
    """gradcheck, and gradgradcheck, of every floating-point argument; small float64 inputs."""
    args = map_tensors(lambda t: t.detach().double().requires_grad_(), args)
    leaves = [t for a in args for t in tensors_of(a) if t.requires_grad]

    def function(*tensors: Tensor) -> Any:
        rest = iter(tensors)
        outs = as_tuple(op(*map_tensors(lambda _: next(rest), args), backend=backend))
        return tuple(o for o in outs if o is not None and o.requires_grad)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=False)
    if second:
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def check_registration(op: Op, args: Sequence[Any], backend: str) -> None:
    """`torch.library.opcheck` of the forward and, with its own results, of the backward kernel."""
    kernels: Any = op.kernels[backend]  # opcheck takes OpOverloads
    args = map_tensors(Tensor.detach, args)
    torch.library.opcheck(kernels.forward, tuple(args))
    if kernels.backward is None:
        return
    assert op.backward_signature is not None
    returns = as_tuple(kernels.forward(*args))
    env = dict(zip(op.signature.names, args, strict=True))
    env.update(zip((r.name for r in op.signature.returns), returns, strict=True))
    for name in op.outputs:
        absent = env[name].ndim == 1 and env[name].numel() == 0
        env[f"grad_{name}"] = None if absent else torch.randn_like(env[name])
    env["needs"] = 2 ** len(op.backward_signature.returns) - 1
    torch.library.opcheck(kernels.backward, tuple(env[n] for n in op.backward_signature.names))


def check_compile(op: Op, args: Sequence[Any], backend: str, dynamic: bool | None = None) -> None:
    """torch.compile(fullgraph=True) gives the same outputs and gradients as eager."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *a: op(*a, backend=backend), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    gradients = op.backward_signature is not None
    eager = _run(op, lambda *a: op(*a, backend=backend), args, gradients)
    traced = _run(op, compiled, args, gradients)
    for (name, value), (_, expected) in zip(traced, eager, strict=True):
        torch.testing.assert_close(value, expected, msg=f"{name}: {{}}".format)


def check_vmap(op: Op, args: Sequence[Any], backend: str) -> None:
    """vmap over a batch of the first argument equals a loop."""
    x, *rest = map_tensors(Tensor.detach, args)
    batch = torch.stack([x, 2 * x, -x])
    mapped = as_tuple(torch.func.vmap(lambda a: op(a, *rest, backend=backend))(batch))
    rows = [as_tuple(op(a, *rest, backend=backend)) for a in batch]
    for i, value in enumerate(mapped):
        torch.testing.assert_close(value, torch.stack([row[i] for row in rows]))


def check_op(op: Op, args: Sequence[Any], backend: str) -> None:
    """Everything that must hold of one operator for one small set of arguments."""
    check_values(op, args, backend)
    check_registration(op, args, backend)
    check_compile(op, args, backend)
    check_compile(op, args, backend, dynamic=True)
    if op.backward_signature is not None:
        check_gradients(op, args, backend)
        check_vmap(op, args, backend)
