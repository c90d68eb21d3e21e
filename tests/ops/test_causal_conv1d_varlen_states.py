from __future__ import annotations

import pytest
import torch

import fusewright
from check import check_op, check_values
from fusewright import ArgumentError
from fusewright.ops.causal_conv1d_varlen_states import CAUSAL_CONV1D_VARLEN_STATES as OP


def test_everything(backend: str, device: str) -> None:
    check_op(OP, OP.sample(dtype=torch.float64, device=device), backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_len", [0, 1, 4, 9])
def test_lengths_and_strides(backend: str, device: str, dtype: torch.dtype, state_len: int) -> None:
    for lengths in ((5,), (), (0, 0), (4, 1, 12, 0, 3)):
        x, bounds, _ = OP.sample(
            dtype=dtype, device=device, lengths=lengths, channels=37, state_len=state_len
        )
        for view in (x, x.t().contiguous().t(), x.repeat_interleave(2, 1)[:, ::2]):
            for cu_seqlens in (bounds, bounds.long()):
                check_values(OP, (view, cu_seqlens, state_len), backend)


def test_states_are_exact(backend: str, device: str) -> None:
    x, bounds, _ = OP.sample(device=device, lengths=(2, 5))
    y = fusewright.causal_conv1d_varlen_states(x, bounds, 3, backend=backend)
    assert torch.equal(y[0], torch.cat([torch.zeros(1, 5, device=device), x[:2]]).t())
    assert torch.equal(y[1], x[4:7].t())


def test_wrong_bounds(backend: str, device: str) -> None:
    x, _, _ = OP.sample(device=device)
    for wrong in ([0, 5, 3], [0, 99], [-1, 2]):
        bounds = torch.tensor(wrong, device=device)
        if device == "cpu":
            with pytest.raises(RuntimeError, match=r"cu_seqlens\[\d\] is -?\d+, must be from"):
                fusewright.causal_conv1d_varlen_states(x, bounds, 3, backend=backend)
        else:
            y = fusewright.causal_conv1d_varlen_states(x, bounds, 3, backend=backend)
            assert y[-1].isnan().all()


def test_bad_input() -> None:
    x, bounds, _ = OP.sample()
    call = fusewright.causal_conv1d_varlen_states
    with pytest.raises(ArgumentError, match=r"x.dim\(\) is 3, must be 2"):
        call(x[None], bounds, 3)
    with pytest.raises(ArgumentError, match="cu_seqlens.dtype is torch.float32"):
        call(x, bounds.float(), 3)
    with pytest.raises(ArgumentError, match=r"cu_seqlens.shape is \(0,\)"):
        call(x, bounds[:0], 3)
    with pytest.raises(ArgumentError, match="state_len is -1, must be >= 0"):
        call(x, bounds, -1)
    with pytest.raises(ArgumentError, match="state_len is 2.0"):
        call(x, bounds, 2.0)
