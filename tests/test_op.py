"""The core itself: calls, gradients, transforms, compiled and exported code."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fusewright
from check import check_compile, check_gradients, check_op, check_values, check_vmap
from fusewright import ArgumentError, UnsupportedError
from fusewright.backends import REFERENCE
from toy import TOY, Toy


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
