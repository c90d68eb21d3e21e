// layer_norm: layer norm after an optional sum, before an activation, and its gradients.
//
// layer_norm_forward: 0 x, 1 weight, 2 bias, 3 residual, 4 y, 5 residual_out, 6 mean, 7 rstd,
//   8 FwNormArgs; norm_dispatch. y and residual_out are dense; the statistics are floats.
// In the backward, x is residual_out where there was a residual, and the dtype of the name is its;
// grad_y and grad_residual_out, each of a dtype of its own, may be absent.
// layer_norm_backward_input: 0 grad_y, 1 grad_residual_out, 2 x, 3 weight, 4 bias, 5 mean, 6 rstd,
//   7 grad_x, 8 FwNormArgs; norm_dispatch.
// layer_norm_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 bias, 4 mean, 5 rstd,
//   6 partial (args.parts, 2, columns) floats, 7 FwNormArgs; norm_backward_parameters_dispatch,
//   args.parts = norm_parts(); only where there is a grad_y. Then
// layer_norm_backward_sum_float: 0 partial, 1 grad_weight, 2 grad_bias, 3 FwNormArgs;
//   norm_backward_sum_dispatch. Gradients that are not wanted have the dtype FW_NONE.
#include "norm.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(1024)]] void layer_norm_forward(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]],
    const device uchar* bias [[buffer(2)]], const device uchar* residual [[buffer(3)]],
    device T* y [[buffer(4)]], device uchar* residual_out [[buffer(5)]],
    device float* mean [[buffer(6)]], device float* rstd [[buffer(7)]],
    constant FwNormArgs& args [[buffer(8)]], threadgroup float* scratch [[threadgroup(0)]],
    FW_PLACE) {
    const NormForward<T> io = {x, weight, bias, residual, y, residual_out, mean, rstd};
    const Place at = FW_PLACE_OF;
    norm_forward<T, true>(io, args, scratch, at);
}
FW_KERNELS("layer_norm_forward", layer_norm_forward)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(1024)]] void layer_norm_backward_input(
    const device uchar* grad_y [[buffer(0)]], const device uchar* grad_residual_out [[buffer(1)]],
    const device T* x [[buffer(2)]], const device uchar* weight [[buffer(3)]],
    const device uchar* bias [[buffer(4)]], const device float* mean [[buffer(5)]],
    const device float* rstd [[buffer(6)]], device T* grad_x [[buffer(7)]],
    constant FwNormArgs& args [[buffer(8)]], threadgroup float* scratch [[threadgroup(0)]],
    FW_PLACE) {
    const NormBackward<T> io = {grad_y, grad_residual_out, x, weight, bias, mean, rstd, grad_x};
    const Place at = FW_PLACE_OF;
    norm_backward_input<T, true>(io, args, scratch, at);
}
FW_KERNELS("layer_norm_backward_input", layer_norm_backward_input)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void layer_norm_backward_parameters(
    const device uchar* grad_y [[buffer(0)]], const device T* x [[buffer(1)]],
    const device uchar* weight [[buffer(2)]], const device uchar* bias [[buffer(3)]],
    const device float* mean [[buffer(4)]], const device float* rstd [[buffer(5)]],
    device float* partial [[buffer(6)]], constant FwNormArgs& args [[buffer(7)]],
    uint2 at [[thread_position_in_grid]]) {
    const NormBackward<T> io = {grad_y, grad_y, x, weight, bias, mean, rstd, nullptr};
    norm_backward_parameters<T, true>(io, partial, args, at);
}
FW_KERNELS("layer_norm_backward_parameters", layer_norm_backward_parameters)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void layer_norm_backward_sum(
    const device T* partial [[buffer(0)]], device uchar* grad_weight [[buffer(1)]],
    device uchar* grad_bias [[buffer(2)]], constant FwNormArgs& args [[buffer(3)]],
    uint i [[thread_position_in_grid]]) {
    if (i >= args.columns) return;
    if (args.grad_weight_dtype != FW_NONE) {
        store_any(grad_weight, args.grad_weight_dtype, i, norm_total(partial, args, 0, i));
    }
    if (args.grad_bias_dtype != FW_NONE) {
        store_any(grad_bias, args.grad_bias_dtype, i, norm_total(partial, args, 1, i));
    }
}
FW_KERNEL("layer_norm_backward_sum_float", layer_norm_backward_sum, float)
