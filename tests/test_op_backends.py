"""Which backend runs a call, and what `explain` says of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import fusewright
from fusewright import ArgumentError, UnsupportedError, backends
from fusewright.backends import REFERENCE
from toy import TOY, Toy


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
