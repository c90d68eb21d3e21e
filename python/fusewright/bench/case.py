"""`Case`: one row of the benchmarks, as `benchmarks/<op>.py` describes it; `Peer`: a rival."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Peer:
    """Another implementation.

    Attributes:
        call: its call, on the inputs of the case. It may raise `ImportError`: the report then says
            that it is not installed.
        backward: whether it has gradients; without, it is in the forward's rows alone.
        wrong: time it even where its result is off, because it is known to be and its speed is of
            interest; its rows are then marked `(wrong)` and no speed-up counts them. Where its
            gradients fail, its forward is timed.
    """

    call: Callable[..., Any]
    backward: bool = True
    wrong: bool = False


@dataclass(frozen=True)
class Case:
    """One operator at one size, beside what a PyTorch user writes in its place.

    Attributes:
        op: the operator's name.
        shape: how the row is labelled, `8x96x56x56 L5`.
        dtype: the dtype of the row, usually that of the first input.
        make: fresh random inputs on a device. Those that need a gradient have `requires_grad` set;
            the forward is timed without gradients all the same.
        ours: the call of fusewright, on those inputs. It returns a tensor, or a tuple whose
            tensors are compared with those of `eager` in order.
        eager: the same with plain PyTorch, as a user writes it today.
        bytes: what the forward must at least read and write.
        flops: what the forward must at least compute.
        bytes_backward: the same of forward and backward together; None where the operator has no
            backward row.
        flops_backward: the same.
        peers: other implementations to time beside, by name.
        floor: a call on the same inputs that does a part of the work and that nothing can beat,
            such as the matrix product alone; by default the FLOP at the rate of a matrix product.
        compile: options of torch.compile; None leaves it out.
    """

    op: str
    shape: str
    dtype: torch.dtype
    make: Callable[[torch.device], tuple[Any, ...]]
    ours: Callable[..., Any]
    eager: Callable[..., Any]
    bytes: int
    flops: int = 0
    bytes_backward: int | None = None
    flops_backward: int = 0
    peers: Mapping[str, Peer] = field(default_factory=dict)
    floor: Callable[..., Any] | None = None
    compile: Mapping[str, Any] | None = field(default_factory=dict)
