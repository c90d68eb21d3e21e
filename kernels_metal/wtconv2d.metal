// wtconv2d: the wavelet convolution in two dimensions and its gradients. plan.h's wt_steps() gives
// the dispatches; a step's x and y are those of the call for step 0, and dense floats for the
// others, whose kernels are then those of float.
//
// wtconv2d_low: 0 x, 1 low (dense floats), 2 FwHaarArgs; haar_dispatch. Step k's image from that of
//   step k - 1.
// wtconv2d_forward: 0 x, 1 base_weight, 2 base_bias, 3 base_scale, 4-11 wavelet_weights of the
//   step's levels, 12-19 wavelet_scales, 20 deeper (floats), 21 y, 22 FwWtArgs; WtStep::dispatch.
//   Where args.base or args.deeper is 0, or the step has fewer levels, those are absent. With
//   args.flipped, x is grad_y, y is grad_x and there is no bias.
// wtconv2d_backward_filters: 0 grad_y, 1 x, 2 partial (WtStep::partials floats), 3 FwWtArgs;
//   WtStep::dispatch. grad_y has x's dtype. For step k both are low bands: of grad_y as of x. Then
//   for the base and for every level
// wtconv2d_backward_sum_float: 0 partial, 1 weight, 2 scale, 3 bias, 4 grad_weight, 5 grad_scale,
//   6 grad_bias, 7 FwWtSumArgs; wt_backward_sum_dispatch. A gradient has its parameter's dtype.
#include "wtconv_backward.h"
#include "wtconv_forward.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void wtconv2d_low(
    const device T* x [[buffer(0)]], device float* low [[buffer(1)]],
    constant FwHaarArgs& args [[buffer(2)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    wt_low<T, 2>(x, low, args, at, grid);
}
FW_KERNELS("wtconv2d_low", wtconv2d_low)

FW_WT_FORWARD(2)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void wtconv2d_backward_filters(
    const device T* grad_y [[buffer(0)]], const device T* x [[buffer(1)]],
    device float* partial [[buffer(2)]], constant FwWtArgs& args [[buffer(3)]],
    threadgroup float* shared [[threadgroup(0)]], uint group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
    wt_backward_filters<T, 2>(grad_y, x, partial, args, shared, group, index, threads, lane,
                              simdgroup, simdgroups);
}
FW_KERNELS("wtconv2d_backward_filters", wtconv2d_backward_filters)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void wtconv2d_backward_sum(
    const device T* partial [[buffer(0)]], const device uchar* weight [[buffer(1)]],
    const device uchar* scale [[buffer(2)]], const device uchar* bias [[buffer(3)]],
    device uchar* grad_weight [[buffer(4)]], device uchar* grad_scale [[buffer(5)]],
    device uchar* grad_bias [[buffer(6)]], constant FwWtSumArgs& args [[buffer(7)]],
    uint group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
    wt_backward_sum(partial, weight, scale, bias, grad_weight, grad_scale, grad_bias, args,
                    int64_t(group) * simdgroups + simdgroup, lane);
}
FW_KERNEL("wtconv2d_backward_sum_float", wtconv2d_backward_sum, float)
