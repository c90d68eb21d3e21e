# mypy: disable-error-code="union-attr,misc,list-item,call-overload,operator"
from __future__ import annotations

import pytest
import torch

from fusewright import ArgumentError
from fusewright.models import wtconvnext
from fusewright.models.wtconvnext import VARIANTS


def published_keys(variant: str) -> set[str]:
    sizes = VARIANTS[variant]
    keys = {f"stem.{i}.{p}" for i in (0, 1) for p in ("weight", "bias")}
    keys |= {f"head.{m}.{p}" for m in ("norm", "fc") for p in ("weight", "bias")}
    for i, (depth, levels) in enumerate(zip(sizes.depths, sizes.wt_levels, strict=True)):
        if i:
            keys |= {f"stages.{i}.downsample.{j}.{p}" for j in (0, 1) for p in ("weight", "bias")}
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            keys.add(f"{block}.gamma")
            for layer in ("norm", "mlp.fc1", "mlp.fc2", "conv_dw.base_conv"):
                keys |= {f"{block}.{layer}.{p}" for p in ("weight", "bias")}
            keys |= {f"{block}.conv_dw.{k}" for k in ("wt_filter", "iwt_filter")}
            keys.add(f"{block}.conv_dw.base_scale.weight")
            for level in range(levels):
                keys.add(f"{block}.conv_dw.wavelet_convs.{level}.weight")
                keys.add(f"{block}.conv_dw.wavelet_scale.{level}.weight")
    return keys


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fused", [False, True])
def test_keys_are_the_published_ones(variant: str, fused: bool) -> None:
    with torch.device("meta"):
        model = wtconvnext(variant, fused=fused)
    assert set(model.state_dict()) == published_keys(variant)


def test_sizes_of_tiny() -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in wtconvnext("tiny").parameters())
    assert 29e6 < parameters < 31e6  # 30 M in the paper


def test_fused_equals_plain() -> None:
    plain, fused = wtconvnext("pico", fused=False, num_classes=7), wtconvnext("pico", num_classes=7)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    fused.load_state_dict(plain.state_dict())
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 3, 52, 40)
    losses = [m(x).square().mean() for m in (plain, fused)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for loss in losses:
        loss.backward()
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad - b.grad).norm() <= 1e-3 * a.grad.norm() + 1e-6, name


def test_drop_path_acts_in_training_alone() -> None:
    model = wtconvnext("pico", drop_path_rate=0.5, drop_rate=0.2, in_chans=1)
    with torch.no_grad():
        for block in (b for stage in model.stages for b in stage.blocks):
            block.gamma.fill_(1.0)
    x = torch.randn(4, 1, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_compile() -> None:
    model = wtconvnext("pico", num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_unknown_variant() -> None:
    with pytest.raises(ArgumentError, match="variant is 'huge', must be one of pico, tiny"):
        wtconvnext("huge")
