// causal_conv1d_varlen_states: the last inputs of every sequence of a packed batch, and its
// gradient.
//
// causal_conv1d_varlen_states_forward: 0 x, 1 cu_seqlens, 2 y, 3 FwVarlenArgs;
//   varlen_forward_dispatch. A sequence whose bounds decrease or leave x has states of NaN.
// causal_conv1d_varlen_states_backward: 0 grad_y, 1 cu_seqlens, 2 grad_x, 3 FwVarlenArgs;
//   varlen_backward_dispatch.
#include "dtype.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_varlen_states_forward(
    const device T* x [[buffer(0)]], const device uchar* cu_seqlens [[buffer(1)]],
    device T* y [[buffer(2)]], constant FwVarlenArgs& args [[buffer(3)]],
    uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]]) {
    const int64_t d = at.x;
    if (d >= args.channels) return;
    for (int64_t sequence = at.z; sequence < args.sequences; sequence += grid.z) {
        const int64_t begin = load_integer(cu_seqlens, args.bounds_dtype, sequence);
        const int64_t end = load_integer(cu_seqlens, args.bounds_dtype, sequence + 1);
        const bool wrong = begin < 0 || end < begin || end > args.total;
        for (int64_t place = at.y; place < args.state_len; place += grid.y) {
            const int64_t row = end - args.state_len + place;
            device T* to = y + sequence * args.y[0] + d * args.y[1] + place * args.y[2];
            if (wrong || row < begin) {
                *to = from_acc<T>(wrong ? NAN : 0.0f);
            } else {
                *to = x[row * args.x[0] + d * args.x[1]];
            }
        }
    }
}
FW_KERNELS("causal_conv1d_varlen_states_forward", causal_conv1d_varlen_states_forward)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_varlen_states_backward(
    const device T* grad_y [[buffer(0)]], const device uchar* cu_seqlens [[buffer(1)]],
    device T* grad_x [[buffer(2)]], constant FwVarlenArgs& args [[buffer(3)]],
    uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]]) {
    const int64_t d = at.x;
    if (d >= args.channels) return;
    for (int64_t row = at.y; row < args.total; row += grid.y) {
        int64_t low = 0, high = args.sequences;  // the first sequence that ends after the row
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (load_integer(cu_seqlens, args.bounds_dtype, middle + 1) > row) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        T value = from_acc<T>(0.0f);
        if (low < args.sequences && load_integer(cu_seqlens, args.bounds_dtype, low) <= row) {
            const int64_t end = load_integer(cu_seqlens, args.bounds_dtype, low + 1);
            const int64_t place = row - end + args.state_len;
            if (place >= 0) {
                value = grad_y[low * args.y[0] + d * args.y[1] + place * args.y[2]];
            }
        }
        grad_x[row * args.x[0] + d * args.x[1]] = value;
    }
}
FW_KERNELS("causal_conv1d_varlen_states_backward", causal_conv1d_varlen_states_backward)
