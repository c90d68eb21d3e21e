from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusewright import ArgumentError
from fusewright.nn import CausalConv1d, LayerNorm, LinearAct, RMSNorm


def pairs() -> list[Any]:
    return [
        (LinearAct(5, 7, activation=None), nn.Linear(5, 7), (3, 5)),
        (LinearAct(5, 7, bias=False, activation=None), nn.Linear(5, 7, bias=False), (2, 3, 5)),
        (LayerNorm(5), nn.LayerNorm(5), (3, 5)),
        (
            LayerNorm((4, 5), eps=1e-3, bias=False),
            nn.LayerNorm((4, 5), 1e-3, bias=False),
            (2, 4, 5),
        ),
        (LayerNorm(5, elementwise_affine=False), nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
        (RMSNorm(5), nn.RMSNorm(5), (3, 5)),
        (RMSNorm((4, 5), eps=1e-3), nn.RMSNorm((4, 5), 1e-3), (2, 4, 5)),
        (RMSNorm(5, elementwise_affine=False), nn.RMSNorm(5, elementwise_affine=False), (3, 5)),
    ]


@pytest.mark.parametrize("index", range(8))
def test_replaces_the_module_of_torch(index: int) -> None:
    """Same state_dict in both directions, same result, same gradients."""
    ours, theirs, shape = pairs()[index]
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, requires_grad=True)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *ours.parameters()], g)
    wanted = torch.autograd.grad(expected, [x, *theirs.parameters()], g)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_causal_conv1d_replaces_the_padded_convolution() -> None:
    ours, theirs = CausalConv1d(6, 4), nn.Conv1d(6, 6, 4, groups=6, padding=3)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 11)
    torch.testing.assert_close(ours(x), theirs(x)[..., :11])


@pytest.mark.parametrize("kernel_size", [1, 2, 4, 7])
def test_causal_conv1d_steps_equal_the_whole(kernel_size: int) -> None:
    layer = CausalConv1d(6, kernel_size, activation="silu")
    x = torch.randn(2, 6, 5)
    y, final = layer(x, return_final_states=True)
    state = layer.new_state(2)
    steps = [layer.step(x[..., t], state) for t in range(5)]
    torch.testing.assert_close(torch.stack(steps, -1), y)
    if kernel_size > 1:
        assert torch.equal(state, final)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_causal_conv1d_in_two_halves(activation: str | None) -> None:
    """What one call returns as its states is where the next goes on; gradients pass through."""
    layer = CausalConv1d(6, 4, activation=activation)
    x = torch.randn(2, 6, 11, requires_grad=True)
    y, final = layer(x, return_final_states=True)
    first, states = layer(x[..., :5], return_final_states=True)
    second, last = layer(x[..., 5:], initial_states=states, return_final_states=True)
    torch.testing.assert_close(torch.cat([first, second], -1), y)
    assert torch.equal(last, final)
    assert torch.equal(final, x[..., -3:])
    g, h = torch.randn_like(y), torch.randn_like(final)
    leaves = [x, *layer.parameters()]
    whole = torch.autograd.grad([y, final], leaves, [g, h])
    halves = torch.autograd.grad([first, second, last], leaves, [g[..., :5], g[..., 5:], h])
    for a, b in zip(whole, halves, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_causal_conv1d_of_packed_sequences() -> None:
    """Each sequence as if it were alone, the first after the initial states; padding gives 0."""
    layer = CausalConv1d(6, 4, activation="silu")
    x, before = torch.randn(1, 6, 12), torch.randn(1, 6, 3)
    seq_idx = torch.tensor([[0] * 5 + [1] * 2 + [2] * 3 + [-1] * 2])
    y, final = layer(x, seq_idx, before, True)
    assert torch.equal(layer(x, seq_idx=seq_idx, initial_states=before), y)
    torch.testing.assert_close(y[..., :5], layer(x[..., :5], initial_states=before))
    torch.testing.assert_close(y[..., 5:7], layer(x[..., 5:7]))
    torch.testing.assert_close(y[..., 7:10], layer(x[..., 7:10]))
    assert not y[..., 10:].any()
    assert not final.any(), "the last token belongs to no sequence"
    _, final = layer(x[..., :9], seq_idx[:, :9], before, True)
    assert torch.equal(final[..., 1:], x[..., 7:9])
    assert not final[..., 0].any()


def test_activations_and_residual() -> None:
    x, r = torch.randn(3, 8), torch.randn(3, 8)
    layer = LayerNorm(8, activation="relu")
    y, h = layer(x, r)
    torch.testing.assert_close(h, x + r)
    torch.testing.assert_close(y, F.layer_norm(x + r, (8,)).relu())
    y, h = RMSNorm(8, eps=1e-6, activation="silu")(x, r)
    torch.testing.assert_close(y, F.silu(F.rms_norm(x + r, (8,), eps=1e-6)))
    linear = LinearAct(8, 4, activation="gelu_tanh")
    expected = F.gelu(F.linear(x, linear.weight, linear.bias), approximate="tanh")
    torch.testing.assert_close(linear(x), expected)


def test_gemma_starts_from_zero() -> None:
    layer = RMSNorm(8, weight_offset=1.0)
    assert not layer.weight.any()
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), F.rms_norm(x, (8,)))


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="activation is 'elu'"):
        LinearAct(3, 3, activation="elu")
    with pytest.raises(ArgumentError, match="activation is 'tanh'"):
        LayerNorm(3, activation="tanh")
    with pytest.raises(ArgumentError, match="casting is 'gemma'"):
        RMSNorm(3, casting="gemma")
    with pytest.raises(ArgumentError, match="kernel_size is 0"):
        CausalConv1d(3, 0)
    with pytest.raises(ArgumentError, match="activation is 'relu'"):
        CausalConv1d(3, activation="relu")


@pytest.mark.parametrize("index", range(8))
def test_repr_and_compile(index: int) -> None:
    module, _, shape = pairs()[index]
    assert "activation=None" in repr(module)
    x = torch.randn(shape)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
