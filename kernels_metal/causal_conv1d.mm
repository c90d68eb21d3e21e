#include "host/causal_conv1d.h"
#include "prototypes.h"

namespace fusewright::metal {
namespace {

constexpr const char* kOp = "causal_conv1d";

// The checked arguments of a forward or backward, and what the kernels are told of them.
struct Call {
    Tensor x, weight;
    std::optional<Tensor> bias, seq_idx, initial;
    FwCausalArgs args{};
    std::string dtype;

    Call(const Tensor& given_x, const Tensor& given_weight, const std::optional<Tensor>& given_bias,
         const std::optional<Tensor>& ids, const std::optional<Tensor>& initial_states, bool silu)
        : x(given_x),
          weight(given_weight),
          bias(as_contiguous(given_bias)),
          seq_idx(ids),
          initial(initial_states) {
        check_rank(x, 3, kOp, "x");
        check_filter(weight, bias, x.size(1), kOp);
        weight = as_contiguous(weight);
        args.batch = x.size(0), args.channels = x.size(1), args.length = x.size(2);
        args.width = weight.size(1);
        check_shape(seq_idx, {args.batch, args.length}, kOp, "seq_idx");
        check_shape(initial, state_shape(), kOp, "initial_states");
        dtype = suffix(x, kOp);
        set_strides(args.x, x);
        set_strides(args.seq_idx, seq_idx);
        set_strides(args.initial_states, initial);
        args.silu = silu;
        args.weight_dtype = dtype_of(weight, kOp), args.bias_dtype = dtype_of(bias, kOp);
        args.seq_idx_dtype = integer_dtype_of(seq_idx, kOp, "seq_idx");
        args.initial_dtype = dtype_of(initial, kOp);
        args.final_states_dtype = args.grad_initial_dtype = FW_NONE;
        args.grad_weight_dtype = args.grad_bias_dtype = FW_NONE;
        args.channels_inside = x.stride(1) == 1 && x.stride(2) != 1;
    }

    std::vector<int64_t> state_shape() const { return {args.batch, args.channels, args.width - 1}; }
    std::string kernel(const char* part) const { return kOp + std::string(part) + dtype; }
};

}  // namespace
}  // namespace fusewright::metal

namespace k = fusewright::metal;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::causal_conv1d(const Tensor& x, const Tensor& weight,
                                            const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& seq_idx,
                                            const std::optional<Tensor>& initial_states, bool silu,
                                            bool return_final_states) {
    Call call(x, weight, bias, seq_idx, initial_states, silu);
    FwCausalArgs& args = call.args;
    const Tensor y = fresh_like(x);
    const Tensor final = return_final_states ? fresh(x, call.state_shape()) : none_like(x);
    set_strides(args.y, y);
    if (return_final_states) {
        args.final_states_dtype = dtype_of(final, kOp);
        set_strides(args.final_states, final);
    }
    if (y.numel() == 0 && final.numel() == 0) return {y, final};
    encode([&](const Encoder& run) {
        run(call.kernel("_forward"), causal_forward_dispatch(args),
            {x, call.weight, call.bias, seq_idx, initial_states, y, final}, args);
    });
    return {y, final};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> k::causal_conv1d_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_final_states,
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seq_idx, const std::optional<Tensor>& initial_states, bool silu,
    int64_t needs) {
    Call call(x, weight, bias, seq_idx, initial_states, silu);
    FwCausalArgs& args = call.args;
    check_shape(grad_y, x.sizes(), kOp, "grad_y");
    if (present(grad_y)) check_dtype(*grad_y, x.scalar_type(), kOp, "grad_y");
    check_shape(grad_final_states, call.state_shape(), kOp, "grad_final_states");
    args.has_grad_y = present(grad_y);
    set_strides(args.y, grad_y);
    args.final_states_dtype = dtype_of(grad_final_states, kOp);
    set_strides(args.final_states, grad_final_states);

    const auto wanted = [&](int bit, const std::optional<Tensor>& like) {
        return needs >> bit & 1 && present(like) ? fresh_like(*like) : none_like(x);
    };
    const Tensor dx = wanted(0, x), dweight = wanted(1, weight), dbias = wanted(2, bias),
                 dinitial = wanted(3, initial_states);
    args.needs_grad_x = needs & 1;
    if (needs & 1) set_strides(args.grad_x, dx);
    if (needs >> 3 & 1 && present(initial_states)) {
        args.grad_initial_dtype = dtype_of(dinitial, kOp);
        set_strides(args.grad_initial_states, dinitial);
    }
    const bool needs_weight = needs >> 1 & 1, needs_bias = needs >> 2 & 1 && present(bias);
    if (needs_weight) args.grad_weight_dtype = dtype_of(dweight, kOp);
    if (needs_bias) args.grad_bias_dtype = dtype_of(dbias, kOp);
    const Tensor weight_sums = dense(dweight), bias_sums = dense(dbias);
    const bool sums = (needs_weight || needs_bias) && present(grad_y) && x.numel() > 0;
    args.parts = causal_parts(args.batch, args.length);
    const Tensor partial =
        sums ? fresh(x, {args.parts, args.width + 1, args.channels}, ScalarType::Float)
             : none_like(x);
    if (!sums) {
        for (Tensor t : {dweight, dbias}) torch::stable::zero_(t);
    }
    if (dx.numel() == 0 && dinitial.numel() == 0 && !sums) return {dx, dweight, dbias, dinitial};
    encode([&](const Encoder& run) {
        if (args.needs_grad_x || args.grad_initial_dtype != FW_NONE) {
            run(call.kernel("_backward_input"), causal_backward_input_dispatch(args),
                {grad_y, grad_final_states, x, call.weight, call.bias, seq_idx, initial_states, dx,
                 dinitial},
                args);
        }
        if (sums) {
            run(call.kernel("_backward_parameters"), causal_backward_parameters_dispatch(args),
                {grad_y, x, call.weight, call.bias, seq_idx, initial_states, partial}, args);
            run("causal_conv1d_backward_sum_float", causal_backward_sum_dispatch(args),
                {partial, weight_sums, bias_sums}, args);
        }
    });
    if (sums) {
        copy_unless_same(dweight, weight_sums);
        copy_unless_same(dbias, bias_sums);
    }
    return {dx, dweight, dbias, dinitial};
}
