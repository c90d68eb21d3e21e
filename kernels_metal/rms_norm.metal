// rms_norm: root-mean-square norm after an optional sum, before an activation, and its gradients.
//
// rms_norm_forward: 0 x, 1 weight, 2 residual, 3 y, 4 residual_out, 5 rstd, 6 FwNormArgs;
//   norm_dispatch. y and residual_out are dense; rstd is floats.
// In the backward, x is residual_out where there was a residual, and the dtype of the name is its;
// grad_y and grad_residual_out, each of a dtype of its own, may be absent.
// rms_norm_backward_input: 0 grad_y, 1 grad_residual_out, 2 x, 3 weight, 4 rstd, 5 grad_x,
//   6 FwNormArgs; norm_dispatch.
// rms_norm_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 rstd,
//   4 partial (args.parts, 2, columns) floats, 5 FwNormArgs; norm_backward_parameters_dispatch,
//   args.parts = norm_parts(); only where there is a grad_y. Then
// rms_norm_backward_sum_float: 0 partial, 1 grad_weight, 2 FwNormArgs; norm_backward_sum_dispatch.
#include "norm.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(1024)]] void rms_norm_forward(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]],
    const device uchar* residual [[buffer(2)]], device T* y [[buffer(3)]],
    device uchar* residual_out [[buffer(4)]], device float* rstd [[buffer(5)]],
    constant FwNormArgs& args [[buffer(6)]], threadgroup float* scratch [[threadgroup(0)]],
    FW_PLACE) {
    const NormForward<T> io = {x, weight, weight, residual, y, residual_out, rstd, rstd};
    const Place at = FW_PLACE_OF;
    norm_forward<T, false>(io, args, scratch, at);
}
FW_KERNELS("rms_norm_forward", rms_norm_forward)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(1024)]] void rms_norm_backward_input(
    const device uchar* grad_y [[buffer(0)]], const device uchar* grad_residual_out [[buffer(1)]],
    const device T* x [[buffer(2)]], const device uchar* weight [[buffer(3)]],
    const device float* rstd [[buffer(4)]], device T* grad_x [[buffer(5)]],
    constant FwNormArgs& args [[buffer(6)]], threadgroup float* scratch [[threadgroup(0)]],
    FW_PLACE) {
    const NormBackward<T> io = {grad_y, grad_residual_out, x, weight, weight, rstd, rstd, grad_x};
    const Place at = FW_PLACE_OF;
    norm_backward_input<T, false>(io, args, scratch, at);
}
FW_KERNELS("rms_norm_backward_input", rms_norm_backward_input)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm_backward_parameters(
    const device uchar* grad_y [[buffer(0)]], const device T* x [[buffer(1)]],
    const device uchar* weight [[buffer(2)]], const device float* rstd [[buffer(3)]],
    device float* partial [[buffer(4)]], constant FwNormArgs& args [[buffer(5)]],
    uint2 at [[thread_position_in_grid]]) {
    const NormBackward<T> io = {grad_y, grad_y, x, weight, weight, rstd, rstd, nullptr};
    norm_backward_parameters<T, false>(io, partial, args, at);
}
FW_KERNELS("rms_norm_backward_parameters", rms_norm_backward_parameters)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void rms_norm_backward_sum(
    const device T* partial [[buffer(0)]], device uchar* grad_weight [[buffer(1)]],
    constant FwNormArgs& args [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    if (i >= args.columns) return;
    store_any(grad_weight, args.grad_weight_dtype, i, norm_total(partial, args, 0, i));
}
FW_KERNEL("rms_norm_backward_sum_float", rms_norm_backward_sum, float)
