"""The core itself, on operators of a backend in Python that exists for these tests only."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fusewright
from check import check_compile, check_gradients, check_op, check_values, check_vmap
from fusewright import ArgumentError, UnsupportedError, backends
from fusewright._op import OPS, Op
from fusewright.backends import REFERENCE, Backend

TOY = "toy"


@dataclass
class Toy:
    """The two operators and how often their kernels ran."""

    blend: Op
    clip: Op
    calls: list[str]


def _blend_reference(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
) -> tuple[Tensor, Tensor | None]:
    """Y = tanh(mode) of x^power summed with weights, and the product with the bias."""
    y = x**power
    for i, w in enumerate(weights):
        y = y + (i + 1) * w * x
    if mode == "tanh":
        y = y.tanh()
    z = None
    if extra:
        z = y * 2 if bias is None else y * bias
    return y, z


def _blend(calls: list[str]) -> Op:
    def forward(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        calls.append("forward")
        y, z = _blend_reference(x, weights, bias, power, mode, extra)
        return y, x.new_empty(0) if z is None else z, y * y

    def backward(
        grad_y: Tensor | None,
        grad_z: Tensor | None,
        x: Tensor,
        weights: list[Tensor],
        bias: Tensor | None,
        square: Tensor,
        power: float,
        mode: str,
        needs: int,
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        calls.append(f"backward {needs:03b}")
        y = _blend_reference(x, weights, None, power, mode, False)[0]
        torch.testing.assert_close(square, y * y)
        total = torch.zeros_like(x) if grad_y is None else grad_y
        if grad_z is not None:
            total = total + grad_z * (2 if bias is None else bias)
        if mode == "tanh":
            total = total * (1 - square)
        slope = power * x ** (power - 1) + sum((i + 1) * w for i, w in enumerate(weights))
        nothing = x.new_empty(0)
        dbias = nothing
        if needs & 4 and bias is not None:
            dbias = (
                torch.zeros_like(bias) if grad_z is None else (grad_z * y).sum_to_size(bias.shape)
            )
        return (
            total * slope if needs & 1 else nothing,
            [(i + 1) * total * x if needs & 2 else x.new_empty(0) for i in range(len(weights))],
            dbias,
        )

    def fake(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.empty_like(x)
        return y, torch.empty_like(x) if extra else x.new_empty(0), torch.empty_like(x)

    def check(
        x: Tensor, weights: list[Tensor], bias: Tensor | None, power: float, mode: str, extra: bool
    ) -> None:
        if mode not in ("none", "tanh"):
            raise ArgumentError(f"[toy_blend] mode is {mode!r}, must be 'none' or 'tanh'")

    def sample(levels: int = 2, bias: bool = True, mode: str = "tanh", extra: bool = True) -> Any:
        x = torch.rand(2, 3, dtype=torch.float64) + 0.5
        weights = [torch.randn_like(x) for _ in range(levels)]
        return x, weights, torch.randn(3, dtype=x.dtype) if bias else None, 2.0, mode, extra

    return _define(
        forward,
        backward,
        name="toy_blend",
        forward="(Tensor x, Tensor[] weights, Tensor? bias, float power, str mode, bool extra) -> "
        "(Tensor y, Tensor z, Tensor square)",
        backward="(Tensor? grad_y, Tensor? grad_z, Tensor x, Tensor[] weights, Tensor? bias, "
        "Tensor square, float power, str mode, int needs) -> "
        "(Tensor grad_x, Tensor[] grad_weights, Tensor grad_bias)",
        outputs=("y", "z"),
        reference=_blend_reference,
        fake=fake,
        check=check,
        supports={TOY: lambda x, *_: "x has more than 3 dimensions" if x.dim() > 3 else None},
        avoid={TOY: lambda x, *_: "small" if x.numel() == 1 else None},
        sample=sample,
        autocast="lower",
    )


def _clip(calls: list[str]) -> Op:
    def forward(x: Tensor, limit: int) -> Tensor:
        calls.append("clip")
        return x.clamp(-limit, limit)

    return _define(
        forward,
        None,
        name="toy_clip",
        forward="(Tensor x, int limit) -> Tensor y",
        backward=None,
        reference=lambda x, limit: x.clamp(-limit, limit),
        fake=lambda x, limit: torch.empty_like(x),
        supports={TOY: lambda *_: None},
        sample=lambda: (torch.randn(5), 1),
    )


def _define(forward_kernel: Callable[..., Any], backward_kernel: Any, **declaration: Any) -> Op:
    """Register kernels in Python, as an add-on would before its operators are declared."""
    library = backends.installed()[TOY].library
    kernels = {"": forward_kernel, "_backward": backward_kernel}
    for suffix, kernel in kernels.items():
        if kernel is not None:
            library.impl(declaration["name"] + suffix, kernel, "CPU")
    return Op(**declaration)


@pytest.fixture(scope="module")
def registered() -> Iterator[Toy]:
    installed = backends.installed()
    before = dict(installed)
    installed[TOY] = Backend(TOY, ("cpu",), "CPU", load=lambda: "toy.py", distribution="toys")
    library = installed[TOY].library
    calls: list[str] = []
    yield Toy(_blend(calls), _clip(calls), calls)
    library._destroy()
    installed.clear()
    installed.update(before)
    for name in ("toy_blend", "toy_clip"):
        del OPS[name]


@pytest.fixture
def toy(registered: Toy) -> Toy:
    registered.calls.clear()
    registered.blend._warned.clear()
    return registered


def leaves_of(args: Sequence[Any]) -> list[Tensor]:
    x, weights, bias, *_ = args
    return [t.requires_grad_() for t in (x, *weights, bias) if t is not None]


@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("extra", [False, True])
def test_everything(toy: Toy, levels: int, bias: bool, extra: bool) -> None:
    """Lists of tensors, several outputs, absent ones, extra returns, second derivatives."""
    check_op(toy.blend, toy.blend.sample(levels=levels, bias=bias, extra=extra), TOY)


def test_gradient_of_one_output(toy: Toy) -> None:
    args = toy.blend.sample()
    leaves = leaves_of(args)
    for backend in (TOY, REFERENCE):
        y, _ = toy.blend(*args, backend=backend)
        z = toy.blend(*args, backend=backend)[1]
        found = [
            torch.autograd.grad(out.sum(), leaves, allow_unused=True, materialize_grads=True)
            for out in (y, z)
        ]
        if backend == TOY:
            ours = found
    torch.testing.assert_close(ours, found)


def test_only_wanted_gradients_are_asked_for(toy: Toy) -> None:
    """A frozen parameter costs nothing: bit i of `needs` asks for the i-th gradient."""
    for wanted, mask in (("x", "001"), ("weights", "010"), ("bias", "100"), ("x bias", "101")):
        x, weights, bias, *rest = toy.blend.sample()
        toy.calls.clear()
        if "x" in wanted:
            x.requires_grad_()
        if "weights" in wanted:
            weights[1].requires_grad_()
        if "bias" in wanted:
            bias.requires_grad_()
        y, z = toy.blend(x, weights, bias, *rest, backend=TOY)
        (y + z).sum().backward()
        assert toy.calls == ["forward", f"backward {mask}"]
        tensors = {"x": x, "weights": weights[1], "bias": bias}
        for name, tensor in tensors.items():
            assert (tensor.grad is not None) == (name in wanted)
        assert weights[0].grad is None


def test_no_gradient_wanted(toy: Toy) -> None:
    args = toy.blend.sample()
    for t in leaves_of(args):
        t.requires_grad_(False)
    y, _ = toy.blend(*args, backend=TOY)
    assert y.grad_fn is None
    leaves_of(args)
    with torch.no_grad():
        y, _ = toy.blend(*args, backend=TOY)
    assert y.grad_fn is None
    y, z = toy.blend(*args, backend=TOY)
    assert y.grad_fn is z.grad_fn
    assert type(y.grad_fn).__name__ == "toy_blendBackward"


def test_an_absent_output_is_no_part_of_the_graph(toy: Toy) -> None:
    for extra in (False, True):
        args = toy.blend.sample(extra=extra)
        leaves_of(args)
        _, z = toy.blend(*args, backend=TOY)
        assert (z is not None) == extra


def test_an_empty_output_of_an_empty_input_is_one(toy: Toy) -> None:
    """It looks as an absent one does."""
    x, weights, bias, *rest = toy.blend.sample(extra=True, bias=False)
    x, *weights = (t.flatten()[:0].requires_grad_() for t in (x, *weights))
    for i in (0, 1):
        output = toy.blend(x, weights, bias, *rest, backend=TOY)[i]
        assert output.requires_grad
        for g in torch.autograd.grad(output.sum(), [x, *weights]):
            assert g.shape == (0,)


def test_tensors_that_outlived_a_transform(toy: Toy) -> None:
    """They still lead autograd to what they were made of."""
    x, weights, bias, *rest = toy.blend.sample()
    x.requires_grad_()
    found = []
    for backend in (TOY, REFERENCE):
        kept: list[Tensor] = []

        def loss(t: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(t * 2)
            return t.sum()

        torch.func.grad(loss)(x)
        y, _ = toy.blend(kept[0], weights, bias, *rest, backend=backend)
        found.append(torch.autograd.grad(y.sum(), x))
    torch.testing.assert_close(found[0], found[1])


def test_calls_of_other_types_and_lengths_have_plans_of_their_own(toy: Toy) -> None:
    """What one call leaves behind does not serve another that is none of its kind."""
    x, weights, bias, *rest = toy.blend.sample(levels=2)
    toy.blend(x, weights, bias, *rest, backend=TOY)
    kinds: list[Sequence[Tensor]] = [weights, tuple(weights), weights[:1], []]
    for levels in kinds:
        for b in (bias, None, torch.nn.Parameter(torch.randn(3, dtype=x.dtype))):
            check_values(toy.blend, (x, levels, b, *rest), TOY)
    for wrong in (weights[0], [weights[0], None], [weights], None):
        with pytest.raises(
            ArgumentError, match=r"(?s)\[toy_blend\] weights is .*, must be Tensor\[\]"
        ):
            toy.blend(x, wrong, bias, *rest, backend=TOY)
    for count in (5, 7):
        with pytest.raises(TypeError, match=f"got {count} arguments"):
            toy.blend(*(x, weights, bias, *rest, None)[:count], backend=TOY)


def test_backward_twice_and_freed_buffers(toy: Toy) -> None:
    args = toy.blend.sample()
    leaves = leaves_of(args)
    y, z = toy.blend(*args, backend=TOY)
    first = torch.autograd.grad((y + z).sum(), leaves, retain_graph=True)
    second = torch.autograd.grad((y + z).sum(), leaves)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), leaves)


def test_changed_in_place_after_the_call(toy: Toy) -> None:
    x, weights, *rest = toy.blend.sample()
    weights[0].requires_grad_()
    y, _ = toy.blend(x, weights, *rest, backend=TOY)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_per_sample_gradients(toy: Toy) -> None:
    x, weights, bias, *rest = toy.blend.sample()

    def loss(backend: str, ws: list[Tensor], b: Tensor, row: Tensor) -> Tensor:
        y, z = toy.blend(row, ws, b, *rest, backend=backend)
        return (y * z).sum()

    rows = torch.stack([x, x / 2, 1 + x])
    results = []
    for backend in (TOY, REFERENCE):
        gradient = torch.func.grad(functools.partial(loss, backend), argnums=(0, 1))
        results.append(torch.func.vmap(gradient, in_dims=(None, None, 0))(weights, bias, rows))
    torch.testing.assert_close(results[0], results[1])


def test_hessian(toy: Toy) -> None:
    x, weights, bias, *rest = toy.blend.sample()

    def loss(backend: str, w: Tensor) -> Tensor:
        y, z = toy.blend(x, [w, *weights[1:]], bias, *rest, backend=backend)
        return (y * z).sum()

    found = [
        torch.func.jacrev(torch.func.grad(functools.partial(loss, b)))(weights[0])
        for b in (TOY, REFERENCE)
    ]
    torch.testing.assert_close(found[0], found[1])


def test_vmap_over_lists(toy: Toy) -> None:
    args = toy.blend.sample()
    check_vmap(toy.blend, args, TOY)
    x, weights, *rest = args
    stacked = [torch.stack([w, 2 * w]) for w in weights]
    y, z = torch.func.vmap(lambda ws: toy.blend(x, ws, *rest, backend=TOY))(stacked)
    for i in (0, 1):
        expected = toy.blend(x, [w[i] for w in stacked], *rest, backend=TOY)
        torch.testing.assert_close((y[i], z[i]), expected)


def test_compile_with_changing_sizes(toy: Toy) -> None:
    """Graphs with symbolic sizes serve all of them."""
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *a: toy.blend(*a, backend=TOY), fullgraph=True, dynamic=True, backend=counter
    )
    graphs = []
    for rows in (2, 5, 9):
        x, weights, bias, *rest = toy.blend.sample()
        x, weights = x[:1].repeat(rows, 1), [w[:1].repeat(rows, 1) for w in weights]
        expected = toy.blend(x, weights, bias, *rest, backend=TOY)
        torch.testing.assert_close(compiled(x, weights, bias, *rest), expected)
        graphs.append(counter.frame_count)
    assert graphs[0] > 0
    assert len(set(graphs)) == 1


def test_compiled_code_follows_use_backend(toy: Toy) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(toy.clip.__call__, fullgraph=True, backend="aot_eager")
    args = toy.clip.sample()
    for name, ran in ((TOY, ["clip"]), (REFERENCE, []), (TOY, ["clip"])):
        toy.calls.clear()
        with fusewright.use_backend(name):
            compiled(*args)
        assert toy.calls == ran


def test_autocast(toy: Toy) -> None:
    """Floating-point tensors are lowered, in lists too; fp64 stays, as under torch's own ops."""
    x, weights, bias, *rest = toy.blend.sample()
    single = [x.float(), [w.float() for w in weights], bias.float()]
    leaves = leaves_of([*single, *rest])
    with torch.autocast("cpu", torch.bfloat16):
        y, z = toy.blend(*single, *rest, backend=TOY)
        assert toy.blend(x, weights, bias, *rest, backend=TOY)[0].dtype == torch.float64
    assert y.dtype == z.dtype == torch.bfloat16
    (y + z).sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in leaves)
    with torch.autocast("cpu", torch.bfloat16):
        assert toy.clip(torch.randn(3), 1, backend=TOY).dtype == torch.float32


def test_forward_only_operator(toy: Toy) -> None:
    x = torch.randn(3, requires_grad=True)
    for backend in (TOY, REFERENCE, None):
        with pytest.raises(UnsupportedError, match=r"\[toy_clip\] has no gradient: call it under"):
            toy.clip(x, 1, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(toy.clip(x, 1), x.clamp(-1, 1))
    assert not toy.clip(x.detach(), 1).requires_grad
    check_values(toy.clip, toy.clip.sample(), TOY)
    check_compile(toy.clip, toy.clip.sample(), TOY, dynamic=True)


def test_choice_of_backend(toy: Toy) -> None:
    args = toy.clip.sample()

    def ran(**options: Any) -> bool:
        toy.calls.clear()
        toy.clip(*args, **options)
        return toy.calls == ["clip"]

    assert ran()
    assert ran(backend=TOY)
    assert not ran(backend=REFERENCE)
    with fusewright.use_backend(REFERENCE):
        assert not ran()
        assert ran(backend=TOY)
        with fusewright.use_backend(None):
            assert ran()
        assert not ran()
    assert ran()
    with pytest.raises(ZeroDivisionError), fusewright.use_backend(REFERENCE):
        _ = 1 // 0
    assert ran()


def test_choice_is_the_threads_own(toy: Toy) -> None:
    seen: list[bool] = []
    barrier = threading.Barrier(2)

    def work(backend: str | None) -> None:
        with fusewright.use_backend(backend):
            barrier.wait()
            seen.append(fusewright.backends.override.name == backend)
            barrier.wait()
        seen.append(fusewright.backends.override.name is None)

    threads = [threading.Thread(target=work, args=(b,)) for b in (TOY, REFERENCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 4
    assert backends.override.name is None


def test_a_forced_backend_never_falls_back(toy: Toy) -> None:
    args: tuple[Any, ...] = (torch.rand(1, 1, 2, 2), [], None, 1.0, "none", False)
    with pytest.raises(UnsupportedError, match=r"backend 'toy': x has more than 3 dimensions"):
        toy.blend(*args, backend=TOY)
    with fusewright.use_backend(TOY), pytest.raises(UnsupportedError, match="more than 3"):
        toy.blend(*args)
    with pytest.raises(UnsupportedError, match="'cpu': has no kernel for this operator"):
        toy.blend(*args, backend="cpu")
    with pytest.raises(ArgumentError, match=r"\[backend\] name is 'gpu', must be one of reference"):
        toy.blend(*args, backend="gpu")
    with pytest.raises(ArgumentError, match="name is 'gpu'"), fusewright.use_backend("gpu"):
        pass
    meta: list[Any] = [torch.rand(2, device="meta"), [], *args[2:]]
    with pytest.raises(UnsupportedError, match="serves cpu tensors, x is on meta"):
        toy.blend(*meta, backend=TOY)


def test_meta_tensors_go_through_plain_pytorch(toy: Toy) -> None:
    """Shapes without data, as deferred initialisation wants them; no warning."""
    y, z = toy.blend(torch.rand(2, device="meta"), [], None, 1.0, "none", True)
    assert y.shape == z.shape == (2,)
    assert y.is_meta


def test_falling_to_plain_pytorch_is_told_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    args: tuple[Any, ...] = (torch.rand(1, 1, 2, 2), [], None, 1.0, "none", False)
    with pytest.warns(RuntimeWarning, match="toy: x has more than 3 dimensions") as record:
        toy.blend(*args)
    toy.blend(*args)  # a second warning would be an error here
    assert Path(record[0].filename) == Path(__file__)
    toy.blend._warned.clear()
    monkeypatch.setenv("FUSEWRIGHT_STRICT", "1")
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"\[toy_blend\] runs as plain PyTorch on cpu"):
            toy.blend(*args)
    # a backend that is avoided because it is slower is no fault
    toy.blend(torch.rand(1), *args[1:])
    assert toy.calls == []
    toy.blend(torch.rand(1), *args[1:], backend=TOY)
    assert toy.calls == ["forward"]


def test_explain(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer and its text, for every way a backend is chosen; nothing runs."""
    monkeypatch.setattr(fusewright.ops, "names", lambda: ["toy_clip", "toy_blend"])
    for op in (toy.clip, toy.blend):
        monkeypatch.setattr(fusewright, op.name, op, raising=False)
    args = toy.clip.sample()
    answer = fusewright.explain("toy_clip", *args)
    assert (answer.op, answer.backend, answer.file) == ("toy_clip", TOY, "toy.py")
    assert answer.distribution == "toys"
    assert answer.reasons["cpu"] == "has no kernel for this operator"
    assert answer.reasons[REFERENCE] == "plain PyTorch, could run"
    text = "toy_clip -> toy: the first backend, in measured order, that serves this call"
    assert str(answer).startswith(text + "\n  from toy.py (toys)\n")
    assert fusewright.explain("toy_clip", *args, backend=REFERENCE).why == "forced"
    wide: tuple[Any, ...] = (torch.rand(1, 1, 2, 2), [], None, 1.0, "none", False)
    assert fusewright.explain("toy_blend", *wide).why == "no other backend serves this call"
    forced = fusewright.explain("toy_blend", *wide, backend=TOY)
    assert forced.why == "forced, but it can't: x has more than 3 dimensions"
    slow = fusewright.explain("toy_blend", torch.rand(1), *wide[1:])
    assert (slow.backend, slow.why) == (REFERENCE, "plain PyTorch is faster here")
    assert slow.reasons[TOY] == "small"
    assert toy.calls == []
    with pytest.raises(ArgumentError, match=r"\[explain\] op is 'nothing', must be one of"):
        fusewright.explain("nothing")
    with pytest.raises(ArgumentError, match="mode is 'off'"):
        fusewright.explain("toy_blend", *wide[:4], "off", False)
    assert backends.override.name is None


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (0, None, r"x is None \(NoneType\), must be Tensor"),
        (0, [1.0], r"x is \[1.0\] \(list\), must be Tensor"),
        (1, torch.rand(2), r"weights is a Tensor, must be Tensor\[\]"),
        (1, [torch.rand(2), 1], r"weights is \[.*\] \(list\), must be Tensor\[\]"),
        (1, None, r"weights is None"),
        (2, 1.0, r"bias is 1.0 \(float\), must be Tensor\?"),
        (3, "2", r"power is '2' \(str\), must be float"),
        (3, True, r"power is True \(bool\), must be float"),
        (4, None, r"mode is None \(NoneType\), must be str"),
        (5, 1, r"extra is 1 \(int\), must be bool"),
        (1, [torch.rand(2, 3, device="meta")], r"weights.device is meta, must be cpu as x"),
        (2, torch.rand(3, device="meta"), r"bias.device is meta, must be cpu as x"),
        (4, "off", r"mode is 'off', must be 'none' or 'tanh'"),
    ],
)
def test_wrong_arguments(toy: Toy, place: int, value: Any, text: str) -> None:
    """Also after a good call, whose types are remembered."""
    good = list(toy.blend.sample())
    toy.blend(*good, backend=TOY)
    bad = [*good[:place], value, *good[place + 1 :]]
    for _ in range(2):
        with pytest.raises(ArgumentError, match=r"\[toy_blend\] " + text):
            toy.blend(*bad, backend=TOY)
    with pytest.raises(TypeError, match=r"takes toy_blend\(Tensor x.*, got 5 arguments"):
        toy.blend(*good[:5])


def test_an_integer_serves_as_a_float(toy: Toy) -> None:
    x, weights, bias, _, *rest = toy.blend.sample()
    expected = toy.blend(x, weights, bias, 2.0, *rest, backend=TOY)
    torch.testing.assert_close(toy.blend(x, weights, bias, 2, *rest, backend=TOY), expected)
    check_gradients(toy.blend, (x, weights, bias, 3, *rest), TOY)


EXPORTED = """
import sys, torch
import fusewright
from fusewright import ops
ops.load_all()
program = torch.export.load(sys.argv[1] + "/program.pt2")
args, expected = torch.load(sys.argv[1] + "/values.pt")
names = {node.target.namespace for node in program.graph.nodes if hasattr(node.target, "namespace")}
assert "fusewright_cpu" in names, names
for x in (args[0], args[0].repeat(3, 1)):
    y, total = program.module()(x, args[1], x)
    e, f = fusewright.rms_norm(x, args[1], residual=x, activation="silu", backend="cpu")
    torch.testing.assert_close((y, total), (e, f))
torch.testing.assert_close(program.module()(*args), expected)
"""


class Exported(torch.nn.Module):
    def forward(self, x: Tensor, weight: Tensor, residual: Tensor) -> Any:
        return fusewright.rms_norm(x, weight, residual=residual, activation="silu", backend="cpu")


def test_exported_program_in_a_fresh_process(tmp_path: Path) -> None:
    args = (torch.randn(4, 8), torch.randn(8), torch.randn(4, 8))
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Exported(), args, dynamic_shapes=({0: rows}, None, {0: rows}))
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((args, Exported()(*args)), tmp_path / "values.pt")
    subprocess.run(
        [sys.executable, "-c", EXPORTED, str(tmp_path)], check=True, env=os.environ.copy()
    )
