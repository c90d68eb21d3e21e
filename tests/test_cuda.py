"""What only a GPU has: graphs, streams, tensors past 2^31 elements, several devices."""

from __future__ import annotations

import fcntl
import gc
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import test_kernel_checks as kernel_checks
from check import check_values, relative_error
from cuda_calls import CALLS, leaves_of, run
from fusewright import backends, ops
from fusewright._derivative import as_tuple
from fusewright._schema import tensors_of

OPS = ops.load_all()
ERROR = backends.installed()["cuda"].error
pytestmark = pytest.mark.skipif(ERROR is not None, reason=f"no CUDA kernels: {ERROR}")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EACH = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name, cases in CALLS.items()
    for i, options in enumerate(cases)
]


def test_every_operator_is_called() -> None:
    assert set(CALLS) == {name for name, op in OPS.items() if "cuda" in op.kernels}


def fill(leaves: list[Any], values: list[Any]) -> None:
    """Copy the values of all tensors into those of a call."""
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            for to, source in zip(tensors_of(leaf), tensors_of(value), strict=True):
                to.copy_(source)


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for i, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(value, wanted, rtol=0, atol=0, msg=f"result {i}: {{}}".format)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), EACH)
def test_graph(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Captured once, forward and backward, and replayed with other numbers in the same memory."""
    op = OPS[name]
    first, second = (leaves_of(op, op.sample(dtype=dtype, device="cuda", **options)) for _ in "ab")
    expected = [run(op, leaves_of(op, values)) for values in (first, second)]
    leaves = leaves_of(op, first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(op, leaves)
    for values, wanted in ((first, expected[0]), (second, expected[1]), (first, expected[0])):
        fill(leaves, values)
        graph.replay()
        assert_same(results, wanted)


@pytest.mark.parametrize(("name", "options"), EACH)
def test_side_stream(name: str, options: dict[str, Any]) -> None:
    """All work goes to the current stream, and the host does not wait for it."""
    op = OPS[name]
    values = leaves_of(op, op.sample(dtype=torch.bfloat16, device="cuda", **options))
    expected = run(op, leaves_of(op, values))  # loads the kernels, which would wait
    leaves = leaves_of(op, values)
    fill(leaves, [_other(v) for v in values])
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        fill(leaves, values)
        results = run(op, leaves)
        assert not side.query()
    side.synchronize()
    assert_same(results, expected)


def _other(value: Any) -> Any:
    """Numbers that are none, in place of a call's."""
    if isinstance(value, list):
        return [_other(v) for v in value]
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return torch.full_like(value, float("nan")) if is_float else value


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize(("name", "options"), EACH)
def test_second_device(name: str, options: dict[str, Any]) -> None:
    """A call runs where its tensors are, whichever device is current."""
    op = OPS[name]
    values = leaves_of(op, op.sample(dtype=torch.bfloat16, device="cuda:0", **options))
    expected = run(op, leaves_of(op, values))
    assert torch.cuda.current_device() == 0
    results = run(op, leaves_of(op, values, device="cuda:1"))
    assert torch.cuda.current_device() == 0
    assert all(r.device == torch.device("cuda:1") for r in results)
    assert_same([r.to("cuda:0") for r in results], expected)


BARE = [
    ("rms_norm", {"shape": (4096, 1024)}),
    ("rms_norm", {"shape": (2000, 8200), "activation": "gelu"}),
    ("layer_norm", {"shape": (4096, 1024)}),
    ("layer_norm", {"shape": (3001, 4096), "activation": "relu"}),
    ("linear_act", {"shape": (16, 1024), "out_features": 4096, "activation": "gelu"}),
    ("linear_act", {"shape": (3, 1032), "out_features": 648}),
]


@pytest.mark.parametrize(("name", "options"), BARE)
def test_backward_holds_its_results_alone(name: str, options: dict[str, Any]) -> None:
    """Partial sums lie where the last rows of a result will."""
    op = OPS[name]
    leaves = leaves_of(op, op.sample(dtype=torch.bfloat16, device="cuda", **options))
    y = next(out for out in as_tuple(op(*leaves, backend="cuda")) if out is not None)
    wanted = [t for value in leaves for t in tensors_of(value) if t.requires_grad]
    cotangent = torch.randn_like(y)
    torch.autograd.grad(y, wanted, cotangent, retain_graph=True)  # what cuBLAS keeps, it has
    gc.collect()  # nothing of an earlier test's is freed meanwhile
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    found = torch.autograd.grad(y, wanted, cotangent)
    most = torch.cuda.memory_stats()["requested_bytes.all.peak"]
    assert most - before == sum(g.numel() * g.element_size() for g in found)


@pytest.mark.parametrize("columns", [256, 1000, 4096, 8192, 16384])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_norm_of_many_rows(name: str, activation: str, columns: int) -> None:
    """More rows than blocks: each has several in turn, and the next ones on their way."""
    rows = 5000 if columns <= 1000 else 900
    for residual in (False, True):
        args = OPS[name].sample(
            shape=(rows, columns),
            dtype=torch.bfloat16,
            device="cuda",
            activation=activation,
            residual=residual,
        )
        check_values(OPS[name], args, "cuda")


@pytest.mark.parametrize("shape", [(0, 3, 0, 5), (2, 3, 0, 5), (0, 3, 4, 5), (2, 0, 4, 5)])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_nothing(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Rows without columns and columns without rows: nothing is written where there is nothing."""
    op = OPS[name]
    args = op.sample(shape=shape, norm_dims=3, residual=True, dtype=dtype, device="cuda")
    results = run(op, leaves_of(op, args))
    torch.cuda.synchronize()
    assert not any(r.isnan().any() for r in results)


# Calls past the Python layer. What only the GPU could read is no error: it gives NaN, or nothing,
# and reaches no memory that is not the tensors'. Of another dtype, a gradient is converted.

ON_THE_GPU = {
    "conv_state_indices has 3, must be below 3",
    "cu_seqlens[1] is 14, must be from 0 to 13",
    "must be from 0 to 13",
    "must be from 0 to 2",
}
CONVERTED = {"grad_y.dtype is Half, must be F", "grad_y.dtype is Double, must"}
MORE = {"activation"}  # the norms know every activation here


@pytest.mark.parametrize(("call", "text"), kernel_checks.CALLS)
def test_kernel_refuses(
    call: Callable[[], Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_checks, "place", {"backend": "cuda", "device": "cuda"})
    if text in ON_THE_GPU | CONVERTED | MORE:
        call()
    else:
        with pytest.raises(RuntimeError, match=r"\[\w+\] |unknown activation"):
            call()
    torch.cuda.synchronize()


# Tensors past 2^31 elements: what lies there equals what a call on that part alone gives.

BIG = 2**31


@pytest.fixture
def alone() -> Iterator[None]:
    """One such test at a time on a GPU, also where several processes test."""
    with (Path(tempfile.gettempdir()) / "fusewright-tests-cuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if torch.cuda.mem_get_info()[0] < 48 * 2**30:
            pytest.skip("needs 48 GiB of free GPU memory")
        before = torch.are_deterministic_algorithms_enabled()
        yield
        torch.use_deterministic_algorithms(before)
        torch.cuda.empty_cache()


def big(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    x = torch.empty(shape, dtype=dtype, device="cuda").normal_()
    assert x.numel() > BIG
    return x.requires_grad_()


def parameters(name: str, **options: Any) -> list[Any]:
    """The arguments after x."""
    args = OPS[name].sample(device="cuda", **options)
    return [
        [t.requires_grad_() for t in a]
        if isinstance(a, list)
        else a.requires_grad_()
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in args[1:]
    ]


def check_part(
    name: str, x: Tensor, rest: list[Any], part: tuple[slice, ...], inner: tuple[slice, ...] = ()
) -> None:
    """y and the gradient of x, both at `part`, against a call on x[part] alone.

    Args:
        inner: of that part, where it does not see what surrounds it.
    """
    op = OPS[name]

    def both(value: Tensor) -> tuple[Tensor, Tensor]:
        y = op(value, *rest, backend="cuda")
        y = y[0] if isinstance(y, tuple) else y
        (dx,) = torch.autograd.grad(y, value, y.detach())
        return y.detach(), dx

    y, dx = both(x)
    alone_y, alone_dx = both(x.detach()[part].clone().requires_grad_())
    # the smaller call may take another kernel, with another order of sums
    assert relative_error(y[part][inner], alone_y[inner]) <= torch.finfo(x.dtype).eps
    assert relative_error(dx[part][inner], alone_dx[inner]) <= torch.finfo(x.dtype).eps


LAST = slice(-3, None)


@pytest.mark.parametrize(
    ("name", "dtype"), [("rms_norm", torch.bfloat16), ("layer_norm", torch.float16)]
)
def test_big_norm(alone: None, name: str, dtype: torch.dtype) -> None:
    x = big(BIG // 4096 + 3, 4096, dtype=dtype)
    check_part(name, x, parameters(name, shape=(1, 4096), dtype=dtype), (LAST,))


def test_big_wtconv(alone: None) -> None:
    shape = (BIG // (96 * 56 * 56) + 2, 96, 56, 56)
    rest = parameters("wtconv2d", shape=(1, 96, 56, 56), dtype=torch.bfloat16, levels=5)
    check_part("wtconv2d", big(*shape), rest, (LAST,))


def test_big_plane(alone: None) -> None:
    """One image whose rows lie past 2^31; 128 pixels away its edge is not seen."""
    rest = parameters("wtconv2d", shape=(1, 1, 8, 8), dtype=torch.float16, levels=2, kernel=3)
    x = big(1, 1, 46336, 46352, dtype=torch.float16)
    corner = (slice(None), slice(None), slice(-512, None), slice(-512, None))
    check_part("wtconv2d", x, rest, corner, (*corner[:2], slice(128, None), slice(128, None)))


@pytest.mark.parametrize("channel_last", [False, True])
def test_big_causal_conv1d(alone: None, channel_last: bool) -> None:
    batch, channels, length = 1, 2048, BIG // 2048 + 8
    if channel_last:
        x = big(batch, length, channels).detach().transpose(1, 2).requires_grad_()
    else:
        x = big(batch, channels, length)
    rest = parameters("causal_conv1d", shape=(1, channels, 1), dtype=torch.bfloat16)
    part = (slice(None), slice(None), slice(-64, None))
    check_part("causal_conv1d", x, rest, part, (*part[:2], slice(8, None)))


@pytest.mark.parametrize("out_features", [64, 2048])
def test_big_linear_act(alone: None, out_features: int) -> None:
    """Many elements in x, and in y as well."""
    features = 2048 if out_features == 64 else 64
    rest = parameters(
        "linear_act", shape=(1, features), out_features=out_features, dtype=torch.bfloat16
    )
    rows = BIG // 2048 + 130
    x = torch.empty(rows, features, dtype=torch.bfloat16, device="cuda").normal_()
    check_part("linear_act", x.requires_grad_(), rest, (slice(-200, None),))


@pytest.mark.parametrize("name", ["haar2d", "ihaar2d"])
def test_big_haar(alone: None, name: str) -> None:
    inverse = name == "ihaar2d"
    shape = (1, 4, 23170, 23172) if inverse else (3, 1, 26756, 26758)
    x = big(*shape).detach()
    height, width = (2 * shape[2], 2 * shape[3]) if inverse else shape[2:]
    y = OPS[name](x, height, width, backend="cuda")
    step = 1 if inverse else 2
    corner = x[-1:, :, -32 * step :, -32 * step :].contiguous()
    expected = OPS[name](corner, 64, 64, backend="cuda")
    last = expected.shape[-1]
    assert torch.equal(y[-1:, :, -last:, -last:], expected)
