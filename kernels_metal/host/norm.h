// layer_norm and rms_norm; `centred` is layer_norm's subtraction of the mean.
#pragma once

#include "activation_name.h"
#include "host/dtype.h"
#include "host/encode.h"

namespace fusewright::metal {

struct NormOptions {
    const char* op;
    int64_t norm_dims;
    double eps;
    Activation activation;
    double weight_offset = 0;
    bool round_first = false;
};

// A tensor as rows of columns with one stride each, dense where its own strides are not such.
struct Rows {
    Tensor tensor;
    int64_t rows = 1, columns = 1, row_stride = 0, step = 1;

    Rows(const Tensor& t, int64_t norm_dims) : tensor(t) {
        const int64_t lead = t.dim() - norm_dims;
        for (int64_t d = 0; d < t.dim(); ++d) (d < lead ? rows : columns) *= t.size(d);
        if (!collapses(0, lead, row_stride) || !collapses(lead, t.dim(), step)) {
            tensor = torch::stable::contiguous(t);
            row_stride = columns, step = 1;
        }
    }

  private:
    // Whether dimensions from `begin` to `end` count like one, and the stride of that one.
    bool collapses(int64_t begin, int64_t end, int64_t& stride) const {
        int64_t expected = 0;
        bool found = false;
        for (int64_t d = end - 1; d >= begin; --d) {
            if (tensor.size(d) == 1) continue;
            if (found && tensor.stride(d) != expected) return false;
            if (!found) stride = tensor.stride(d);
            found = true;
            expected = tensor.stride(d) * tensor.size(d);
        }
        return true;
    }
};

inline int32_t activation_code(Activation activation, const char* op) {
    switch (activation) {
        case Activation::none:
            return FW_ACT_NONE;
        case Activation::relu:
            return FW_ACT_RELU;
        case Activation::gelu:
            return FW_ACT_GELU;
        case Activation::gelu_tanh:
            return FW_ACT_GELU_TANH;
        case Activation::silu:
            return FW_ACT_SILU;
        default:
            break;
    }
    FW_CHECK(false, op, "activation must be none, relu, gelu, gelu_tanh or silu");
}

// The checked arguments that the forward and the gradient have in common.
struct NormCall {
    NormOptions options;
    std::optional<Tensor> weight, bias;
    Rows x;
    FwNormArgs args{};
    std::string dtype;

    NormCall(const NormOptions& o, const Tensor& given_x, const std::optional<Tensor>& given_weight,
             const std::optional<Tensor>& given_bias)
        : options(o),
          weight(as_contiguous(given_weight)),
          bias(as_contiguous(given_bias)),
          x(given_x, checked(given_x)),
          dtype(suffix(given_x, o.op)) {
        const auto parameter = [&](const std::optional<Tensor>& t, const char* name) {
            FW_CHECK(!present(t) || t->numel() == x.columns, o.op, name, ".numel() is ", t->numel(),
                     ", must be ", x.columns);
        };
        parameter(weight, "weight");
        parameter(bias, "bias");
        args.rows = x.rows, args.columns = x.columns;
        args.x_row = x.row_stride, args.x_step = x.step;
        args.eps = static_cast<float>(o.eps);
        args.weight_offset = static_cast<float>(o.weight_offset);
        args.activation = activation_code(o.activation, o.op);
        args.round_first = o.round_first;
        args.weight_dtype = dtype_of(weight, o.op), args.bias_dtype = dtype_of(bias, o.op);
        args.residual_dtype = args.grad_y_dtype = args.grad_total_dtype = FW_NONE;
        args.grad_weight_dtype = args.grad_bias_dtype = FW_NONE;
    }

    std::string kernel(const char* part) const { return options.op + std::string(part) + dtype; }

    // What a row of another tensor of x's shape begins at, and its columns' distance.
    std::optional<Rows> rows_of(const std::optional<Tensor>& t, const char* name, int64_t& row,
                                int64_t& step) const {
        if (!present(t)) return std::nullopt;
        const Rows rows(*t, options.norm_dims);
        FW_CHECK(rows.rows == x.rows && rows.columns == x.columns, options.op, name,
                 " must have x's shape");
        row = rows.row_stride, step = rows.step;
        return rows;
    }

  private:
    int64_t checked(const Tensor& t) const {
        FW_CHECK(0 < options.norm_dims && options.norm_dims <= t.dim(), options.op, "norm_dims is ",
                 options.norm_dims, ", must be from 1 to ", t.dim());
        return options.norm_dims;
    }
};

inline std::optional<Tensor> tensor_of(const std::optional<Rows>& rows) {
    return rows ? std::optional(rows->tensor) : std::nullopt;
}

// y, the sum with the residual (or nothing), mean and rstd by row.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_forward(const Tensor& x,
                                                        const std::optional<Tensor>& weight,
                                                        const std::optional<Tensor>& bias,
                                                        const std::optional<Tensor>& residual,
                                                        const NormOptions& o) {
    NormCall call(o, x, weight, bias);
    FwNormArgs& args = call.args;
    check_shape(residual, x.sizes(), o.op, "residual");
    const auto other = call.rows_of(residual, "residual", args.residual_row, args.residual_step);
    args.residual_dtype = dtype_of(residual, o.op);
    const std::vector<int64_t> shape = shape_of(x);
    const std::vector<int64_t> lead(shape.begin(), shape.end() - o.norm_dims);
    const Tensor y = fresh(x, shape);
    const Tensor total = present(residual) ? fresh(*residual, shape) : none_like(x);
    const Tensor mean = centred ? fresh(x, lead, ScalarType::Float) : none_like(x);
    const Tensor rstd = fresh(x, lead, ScalarType::Float);
    if (args.rows == 0) return {y, total, mean, rstd};
    if (args.columns == 0) {  // means of nothing, as torch has them
        for (Tensor t : {mean, rstd}) torch::stable::fill_(t, NAN);
        return {y, total, mean, rstd};
    }
    Tensors tensors{call.x.tensor, call.weight};
    if (centred) tensors.push_back(call.bias);
    for (const auto& t : Tensors{tensor_of(other), y, total}) tensors.push_back(t);
    if (centred) tensors.push_back(mean);
    tensors.push_back(rstd);
    encode([&](const Encoder& run) {
        run(call.kernel("_forward"), norm_dispatch(args), tensors, args);
    });
    return {y, total, mean, rstd};
}

// The gradients of x, weight and bias; x is the sum with the residual, where there was one.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_total, const Tensor& x,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& given_mean, const Tensor& given_rstd, const NormOptions& o, int64_t needs) {
    NormCall call(o, x, weight, bias);
    FwNormArgs& args = call.args;
    const auto statistic = [&](const Tensor& t, const char* name) {
        FW_CHECK(t.numel() == args.rows, o.op, name, ".numel() is ", t.numel(), ", must be ",
                 args.rows, ", one a row");
        check_dtype(t, ScalarType::Float, o.op, name);
        return as_contiguous(t);
    };
    const Tensor rstd = statistic(given_rstd, "rstd");
    const Tensor mean = centred ? statistic(given_mean, "mean") : rstd;
    check_shape(grad_y, x.sizes(), o.op, "grad_y");
    check_shape(grad_total, x.sizes(), o.op, "grad_residual_out");
    const auto dy = call.rows_of(grad_y, "grad_y", args.grad_y_row, args.grad_y_step);
    const auto dtotal =
        call.rows_of(grad_total, "grad_residual_out", args.grad_total_row, args.grad_total_step);
    args.grad_y_dtype = dtype_of(grad_y, o.op), args.grad_total_dtype = dtype_of(grad_total, o.op);

    const bool needs_weight = needs & 2 && present(weight), needs_bias = needs & 4 && present(bias);
    const Tensor dx = needs & 1 ? fresh_like(x) : none_like(x);
    const Tensor dweight = needs_weight ? fresh_like(*weight) : none_like(x);
    const Tensor dbias = needs_bias ? fresh_like(*bias) : none_like(x);
    const Tensor weight_sums = dense(dweight), bias_sums = dense(dbias);
    std::optional<Rows> out;
    if (needs & 1) {
        out.emplace(dx, o.norm_dims);
        args.grad_x_row = out->row_stride, args.grad_x_step = out->step;
    }
    if (needs_weight) args.grad_weight_dtype = dtype_of(dweight, o.op);
    if (needs_bias) args.grad_bias_dtype = dtype_of(dbias, o.op);
    args.parts = norm_parts(args.rows);
    const bool sums = (needs_weight || needs_bias) && present(grad_y) && x.numel() > 0;
    const Tensor partial =
        sums ? fresh(x, {args.parts, 2, args.columns}, ScalarType::Float) : none_like(x);
    if (!sums) {
        for (Tensor t : {dweight, dbias}) torch::stable::zero_(t);
    }
    if (x.numel() == 0) return {dx, dweight, dbias};
    // x, the parameters, the statistics and what is written, behind the gradients.
    const auto with_rest = [&](Tensors tensors, const Tensor& written) {
        for (const auto& t : Tensors{call.x.tensor, call.weight}) tensors.push_back(t);
        if (centred) {
            for (const auto& t : Tensors{call.bias, mean}) tensors.push_back(t);
        }
        for (const auto& t : Tensors{rstd, written}) tensors.push_back(t);
        return tensors;
    };
    encode([&](const Encoder& run) {
        if (out) {
            run(call.kernel("_backward_input"), norm_dispatch(args),
                with_rest({tensor_of(dy), tensor_of(dtotal)}, out->tensor), args);
        }
        if (!sums) return;
        run(call.kernel("_backward_parameters"), norm_backward_parameters_dispatch(args),
            with_rest({tensor_of(dy)}, partial), args);
        Tensors results{partial, weight_sums};
        if (centred) results.push_back(bias_sums);
        run(std::string(o.op) + "_backward_sum_float", norm_backward_sum_dispatch(args), results,
            args);
    });
    if (out) copy_unless_same(dx, out->tensor);
    if (sums) {
        copy_unless_same(dweight, weight_sums);
        copy_unless_same(dbias, bias_sums);
    }
    return {dx, dweight, dbias};
}

}  // namespace fusewright::metal
