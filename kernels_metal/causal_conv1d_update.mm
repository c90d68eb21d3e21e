// One or more decoding steps of the causal convolution, on a state that is changed in place.

#include "host/causal_conv1d.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::causal_conv1d_update(const Tensor& x, const Tensor& conv_state, const Tensor& weight,
                               const std::optional<Tensor>& bias,
                               const std::optional<Tensor>& cache_seqlens,
                               const std::optional<Tensor>& conv_state_indices, bool silu) {
    constexpr const char* op = "causal_conv1d_update";
    check_rank(x, 3, op, "x");
    check_rank(conv_state, 3, op, "conv_state");
    check_filter(weight, bias, x.size(1), op);
    FwCausalUpdateArgs args{};
    args.batch = x.size(0), args.channels = x.size(1), args.steps = x.size(2);
    args.width = weight.size(1), args.states = conv_state.size(0);
    args.length = conv_state.size(2);
    const int64_t least = std::max<int64_t>(args.width - 1, 1);
    check_shape(conv_state, {args.states, args.channels, std::max(args.length, least)}, op,
                "conv_state");
    FW_CHECK(present(conv_state_indices) || args.states == args.batch, op, "conv_state has ",
             args.states, " states, must have ", args.batch, " as x without conv_state_indices");
    check_shape(cache_seqlens, {args.batch}, op, "cache_seqlens");
    check_shape(conv_state_indices, {args.batch}, op, "conv_state_indices");
    const std::string kernel = op + ("_forward" + suffix(x, op));
    const Tensor w = as_contiguous(weight);
    const auto b = as_contiguous(bias), seqlens = as_contiguous(cache_seqlens),
               indices = as_contiguous(conv_state_indices);
    args.silu = silu;
    args.weight_dtype = dtype_of(w, op), args.bias_dtype = dtype_of(b, op);
    args.conv_state_dtype = dtype_of(conv_state, op);
    args.seqlens_dtype = integer_dtype_of(seqlens, op, "cache_seqlens");
    args.indices_dtype = integer_dtype_of(indices, op, "conv_state_indices");
    const Tensor y = fresh_like(x);
    if (y.numel() == 0) return y;
    set_strides(args.x, x);
    set_strides(args.y, y);
    set_strides(args.conv_state, conv_state);
    encode([&](const Encoder& run) {
        run(kernel, causal_update_dispatch(args), {x, conv_state, w, b, seqlens, indices, y}, args);
    });
    return y;
}
