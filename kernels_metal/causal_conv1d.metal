// causal_conv1d: the causal depthwise convolution and its gradients; every width, layout and dtype.
//
// causal_conv1d_forward: 0 x, 1 weight, 2 bias, 3 seq_idx, 4 initial_states, 5 y, 6 final_states,
//   7 FwCausalArgs; causal_forward_dispatch. final_states_dtype is x's, or FW_NONE without them.
// causal_conv1d_backward_input: 0 grad_y, 1 grad_final_states, 2 x, 3 weight, 4 bias, 5 seq_idx,
//   6 initial_states, 7 grad_x, 8 grad_initial_states, 9 FwCausalArgs;
//   causal_backward_input_dispatch. grad_initial_dtype is FW_NONE where that is not wanted.
// causal_conv1d_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 bias, 4 seq_idx, 5 initial_states,
//   6 partial (args.parts, width + 1, channels) floats, 7 FwCausalArgs;
//   causal_backward_parameters_dispatch, args.parts = causal_parts(). Then
// causal_conv1d_backward_sum_float: 0 partial, 1 grad_weight, 2 grad_bias, 3 FwCausalArgs;
//   causal_backward_sum_dispatch. Gradients that are not wanted have the dtype FW_NONE.
#include "causal_conv1d.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_forward(
    const device T* x [[buffer(0)]], const device uchar* weight [[buffer(1)]],
    const device uchar* bias [[buffer(2)]], const device uchar* seq_idx [[buffer(3)]],
    const device uchar* initial_states [[buffer(4)]], device T* y [[buffer(5)]],
    device T* final_states [[buffer(6)]], constant FwCausalArgs& args [[buffer(7)]],
    uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]]) {
    const Causal<T> in = {x, weight, bias, seq_idx, initial_states};
    const int64_t history = args.final_states_dtype == FW_NONE ? 0 : args.width - 1;
    FW_FOR_RUNS(args, args.length + history, at, grid) {
        float sums[kTokens];
        for (int i = 0; i < kTokens; ++i) sums[i] = in.offset(args, d);
        for (int64_t lag = 0; lag < args.width; ++lag) {
            const float tap = in.tap(args, d, lag);
            for (int i = 0; i < kTokens; ++i) {
                const int64_t t = first + i;
                if (t < args.length && in.sees(args, b, t, lag)) {
                    sums[i] += tap * in.input(args, b, d, t - lag);
                }
            }
        }
        for (int i = 0; i < kTokens; ++i) {
            const int64_t t = first + i, place = t - args.length;
            if (t < args.length) {
                const float v = args.silu ? silu(sums[i]) : sums[i];
                y[b * args.y[0] + d * args.y[1] + t * args.y[2]] =
                    from_acc<T>(in.sees(args, b, t, 0) ? v : 0.0f);
            } else if (place < history) {
                const int64_t from = args.length - history + place;
                const float v = in.lasts(args, b, from) ? in.input(args, b, d, from) : 0.0f;
                final_states[b * args.final_states[0] + d * args.final_states[1] +
                             place * args.final_states[2]] = from_acc<T>(v);
            }
        }
    }
}
FW_KERNELS("causal_conv1d_forward", causal_conv1d_forward)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_backward_input(
    const device T* grad_y [[buffer(0)]], const device uchar* grad_final_states [[buffer(1)]],
    const device T* x [[buffer(2)]], const device uchar* weight [[buffer(3)]],
    const device uchar* bias [[buffer(4)]], const device uchar* seq_idx [[buffer(5)]],
    const device uchar* initial_states [[buffer(6)]], device T* grad_x [[buffer(7)]],
    device uchar* grad_initial_states [[buffer(8)]], constant FwCausalArgs& args [[buffer(9)]],
    uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]]) {
    const Causal<T> in = {x, weight, bias, seq_idx, initial_states};
    const int64_t history = args.width - 1;
    const int64_t states = args.grad_initial_dtype == FW_NONE ? 0 : history;
    FW_FOR_RUNS(args, args.length + states, at, grid) {
        const int64_t start = first - states;  // negative for a state
        float sums[kTokens] = {0, 0, 0, 0};
        const int64_t end = min(start + kTokens + history, args.length);
        for (int64_t s = max(start, int64_t(0)); s < end; ++s) {
            const float g = in.gradient(grad_y, args, b, d, s);
            for (int i = 0; i < kTokens; ++i) {
                const int64_t lag = s - (start + i);
                if (lag >= 0 && lag <= history && in.sees(args, b, s, lag)) {
                    sums[i] += in.tap(args, d, lag) * g;
                }
            }
        }
        for (int i = 0; i < kTokens; ++i) {
            const int64_t t = start + i, place = t - (args.length - history);
            if (t >= args.length) break;
            if (args.final_states_dtype != FW_NONE && place >= 0 && in.lasts(args, b, t)) {
                sums[i] += load_any(grad_final_states, args.final_states_dtype,
                                    b * args.final_states[0] + d * args.final_states[1] +
                                        place * args.final_states[2]);
            }
            if (t < 0) {
                const int64_t to = b * args.grad_initial_states[0] +
                                   d * args.grad_initial_states[1] +
                                   (t + history) * args.grad_initial_states[2];
                store_any(grad_initial_states, args.grad_initial_dtype, to, sums[i]);
            } else if (args.needs_grad_x) {
                grad_x[b * args.grad_x[0] + d * args.grad_x[1] + t * args.grad_x[2]] =
                    from_acc<T>(sums[i]);
            }
        }
    }
}
FW_KERNELS("causal_conv1d_backward_input", causal_conv1d_backward_input)

enum { kTaps = 4, kLanes = 32 };  // of a threadgroup, as in plan.h

// A threadgroup has a part of the tokens, a few taps, and one channel, or as many as are beside
// each other. `shared` holds kTaps + 1 sums of each thread.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_backward_parameters(
    const device T* grad_y [[buffer(0)]], const device T* x [[buffer(1)]],
    const device uchar* weight [[buffer(2)]], const device uchar* bias [[buffer(3)]],
    const device uchar* seq_idx [[buffer(4)]], const device uchar* initial_states [[buffer(5)]],
    device float* partial [[buffer(6)]], constant FwCausalArgs& args [[buffer(7)]],
    threadgroup float* shared [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint index [[thread_index_in_threadgroup]], uint3 threads [[threads_per_threadgroup]]) {
    const Causal<T> in = {x, weight, bias, seq_idx, initial_states};
    const uint lanes = args.channels_inside ? uint(kLanes) : 1u, rows = threads.x / lanes;
    const uint row = index / lanes;
    const int64_t d = int64_t(group.x) * lanes + index % lanes, first = int64_t(group.y) * kTaps;
    float sums[kTaps + 1] = {0, 0, 0, 0, 0};
    const int64_t tokens = args.batch * args.length, part = group.z;
    const int64_t end = d < args.channels ? (part + 1) * tokens / args.parts : 0;
    for (int64_t i = part * tokens / args.parts + row; i < end; i += rows) {
        const int64_t b = i / args.length, t = i % args.length;
        const float g = in.gradient(grad_y, args, b, d, t);
        for (int k = 0; k < kTaps; ++k) {
            const int64_t lag = args.width - 1 - (first + k);
            if (lag >= 0 && in.sees(args, b, t, lag)) {
                sums[k] += g * in.input(args, b, d, t - lag);
            }
        }
        sums[kTaps] += g;
    }
    for (int k = 0; k <= kTaps; ++k) shared[k * threads.x + index] = sums[k];
    for (uint half_rows = rows / 2; half_rows > 0; half_rows /= 2) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (row >= half_rows) continue;
        for (int k = 0; k <= kTaps; ++k) {
            shared[k * threads.x + index] += shared[k * threads.x + index + half_rows * lanes];
        }
    }
    if (row > 0 || d >= args.channels) return;
    device float* to = partial + part * (args.width + 1) * args.channels + d;
    for (int k = 0; k < kTaps; ++k) {
        if (first + k < args.width) to[(first + k) * args.channels] = shared[k * threads.x + index];
    }
    if (first == 0) to[args.width * args.channels] = shared[kTaps * threads.x + index];
}
FW_KERNELS("causal_conv1d_backward_parameters", causal_conv1d_backward_parameters)

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void causal_conv1d_backward_sum(
    const device T* partial [[buffer(0)]], device uchar* grad_weight [[buffer(1)]],
    device uchar* grad_bias [[buffer(2)]], constant FwCausalArgs& args [[buffer(3)]],
    uint3 at [[thread_position_in_grid]], uint3 grid [[threads_per_grid]]) {
    const int64_t d = at.x, step = (args.width + 1) * args.channels;
    if (d >= args.channels) return;
    for (int64_t k = at.y; k <= args.width; k += grid.y) {
        float sum = 0;
        for (int64_t part = 0; part < args.parts; ++part) {
            sum += partial[part * step + k * args.channels + d];
        }
        if (k == args.width) {
            if (args.grad_bias_dtype != FW_NONE) store_any(grad_bias, args.grad_bias_dtype, d, sum);
        } else if (args.grad_weight_dtype != FW_NONE) {
            store_any(grad_weight, args.grad_weight_dtype, d * args.width + k, sum);
        }
    }
}
FW_KERNEL("causal_conv1d_backward_sum_float", causal_conv1d_backward_sum, float)
