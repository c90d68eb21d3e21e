"""The tests that layer_norm and rms_norm share; their test files import them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from check import check_op, check_values
from fusewright import UnsupportedError
from fusewright._norm import ACTIVATIONS
from fusewright._op import Op

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class NormCases:
    """A subclass gives the operator."""

    op: Op

    @pytest.mark.parametrize("residual", [False, True])
    @pytest.mark.parametrize("activation", ["none", "gelu"])
    def test_everything(self, backend: str, device: str, residual: bool, activation: str) -> None:
        args = self.op.sample(
            shape=(3, 2, 5),
            dtype=torch.float64,
            device=device,
            residual=residual,
            activation=activation,
        )
        check_op(self.op, args, backend)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_dtypes_and_activations(
        self, backend: str, device: str, dtype: torch.dtype, activation: str
    ) -> None:
        for residual, affine in itertools.product([False, True], repeat=2):
            args = self.op.sample(
                shape=(7, 3, 67),
                dtype=dtype,
                device=device,
                activation=activation,
                residual=residual,
                affine=affine,
            )
            check_values(self.op, args, backend)

    def test_residual_in_fp64_beside_another_type(self, backend: str, device: str) -> None:
        """The statistics would have one precision and the gradient another."""
        for dtypes in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
            args = self.op.sample(
                dtype=dtypes[0], residual_dtype=dtypes[1], residual=True, device=device
            )
            with pytest.raises(UnsupportedError, match="its kernels add no torch.float"):
                self.op(*args, backend=backend)
            check_values(self.op, args, "reference")

    @pytest.mark.parametrize("columns", [2, 15, 16, 17, 128, 1000, 8192, 100003])
    def test_columns(self, backend: str, device: str, columns: int) -> None:
        x, *rest = self.op.sample(shape=(5, columns), device=device, residual=True)
        # apart: of two that nearly agree all of a gradient cancels
        x = x + torch.linspace(-4, 4, columns, device=device)
        check_values(self.op, (x, *rest), backend)

    @pytest.mark.parametrize("norm_dims", [1, 2, 3])
    def test_several_dimensions(self, backend: str, device: str, norm_dims: int) -> None:
        args = self.op.sample(shape=(2, 3, 4, 5), norm_dims=norm_dims, device=device)
        check_values(self.op, args, backend)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_strides(self, backend: str, device: str, dtype: torch.dtype) -> None:
        x, *rest = self.op.sample(shape=(3, 4, 5, 21), dtype=dtype, device=device)
        wide = torch.randn(5, 6, 7, 30, device=device).to(dtype)
        views = [
            wide[1:4, 1:5, 1:6, 3:24],
            x.repeat_interleave(2, -1)[..., ::2],
            x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),  # pixels of an NCHW image
            x.transpose(0, 2).contiguous().transpose(0, 2),
            x[:1].expand(x.shape),
            x[..., :1].expand(x.shape),
        ]
        for view in views:
            check_values(self.op, (view, *rest), backend)
            assert self.op(view, *rest, backend=backend)[0].is_contiguous()
        x, *rest = self.op.sample(shape=(4, 3, 21), dtype=dtype, device=device, norm_dims=2)
        check_values(self.op, (x.transpose(1, 2).contiguous().transpose(1, 2), *rest), backend)

    @pytest.mark.parametrize("weight_dtype", DTYPES)
    def test_parameters_of_another_dtype(
        self, backend: str, device: str, weight_dtype: torch.dtype
    ) -> None:
        args = self.op.sample(dtype=torch.bfloat16, weight_dtype=weight_dtype, device=device)
        assert self.op(*args, backend=backend)[0].dtype == torch.bfloat16
        check_values(self.op, args, backend)

    def test_residual_stream_in_fp32(self, backend: str, device: str) -> None:
        args = self.op.sample(
            dtype=torch.bfloat16, residual=True, residual_dtype=torch.float32, device=device
        )
        y, h = self.op(*args, backend=backend)
        assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
        check_values(self.op, args, backend)

    def test_the_sum_may_be_x_twice(self, backend: str, device: str) -> None:
        args = list(self.op.sample(residual=True, device=device))
        at = self.op.signature.names.index("residual")
        x = args[0].requires_grad_()
        args[at] = x
        y, h = self.op(*args, backend=backend)
        (y.square().sum() + h.sum()).backward()
        ours, x.grad = x.grad, None
        y, h = self.op(*args, backend="reference")
        (y.square().sum() + h.sum()).backward()
        torch.testing.assert_close(ours, x.grad, rtol=1e-4, atol=1e-5)

    def test_only_one_output_has_a_gradient(self, backend: str, device: str) -> None:
        args = self.op.sample(residual=True, device=device)
        x = args[0].requires_grad_()
        for output in (0, 1):
            grads = [
                torch.autograd.grad(self.op(*args, backend=b)[output].square().sum(), x)[0]
                for b in (backend, "reference")
            ]
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0,)])
    def test_empty(self, backend: str, device: str, shape: tuple[int, ...]) -> None:
        args = self.op.sample(shape=shape, device=device)
        args[1].requires_grad_()
        y = self.op(*args, backend=backend)[0]
        assert y.shape == shape
        y.sum().backward()
        assert args[1].grad is None or not args[1].grad.any()

    def test_non_finite_values(self, backend: str, device: str) -> None:
        args = self.op.sample(shape=(4, 21), device=device)
        args[0][0, 3], args[0][1, 7], args[0][2, 20] = float("nan"), float("inf"), -float("inf")
        check_values(self.op, args, backend, gradients=False)

    def test_same_bits_for_any_number_of_threads(self, backend: str, device: str) -> None:
        args = self.op.sample(shape=(301, 300), device=device)
        leaves = [t.requires_grad_() for t in args if isinstance(t, torch.Tensor)]
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                y = self.op(*args, backend=backend)[0]
                results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": torch.tensor(1.0)}, r"x.dim\(\) is 0, must be at least 1"),
    ({"x": torch.ones(2, 8).long()}, "x.dtype is torch.int64"),
    ({"weight": torch.randn(7)}, r"weight.shape is \(7,\), must be \(8,\)"),
    ({"weight": torch.ones(8).int()}, "weight.dtype is torch.int32"),
    ({"residual": torch.randn(8)}, r"residual.shape is \(8,\), must be \(2, 8\)"),
    ({"residual": torch.ones(2, 8).int()}, "residual.dtype is torch.int32"),
    ({"eps": float("nan")}, "eps is nan, must be >= 0"),
    ({"eps": -1e-5}, "eps is -1e-05, must be >= 0"),
    ({"eps": "small"}, r"eps is 'small' \(str\), must be float"),
    ({"activation": "softmax"}, "activation is 'softmax', must be None or one of none, relu"),
    ({"normalized_shape": (3, 8)}, r"normalized_shape is \(3, 8\), must be trailing dimensions"),
    ({"weight": torch.randn(8, device="meta")}, "weight.device is meta, must be cpu"),
    ({"x": None}, "x is None"),
]
