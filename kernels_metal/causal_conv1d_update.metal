// causal_conv1d_update: decoding steps on a state that is changed in place.
//
// causal_conv1d_update_forward: 0 x, 1 conv_state, 2 weight, 3 bias, 4 cache_seqlens,
//   5 conv_state_indices, 6 y, 7 FwCausalUpdateArgs; causal_update_dispatch.
//   An index that is not below args.states gives NaN and changes no state.
#include "activation.h"

// The tensors of a step.
template <typename T>
struct Step {
    const device T* x;
    device uchar* conv_state;
    const device uchar* weight;
    const device uchar* bias;
    device T* y;

    float state(constant FwCausalUpdateArgs& args, int64_t s, int64_t d, int64_t i) const {
        const int64_t at = s * args.conv_state[0] + d * args.conv_state[1] + i * args.conv_state[2];
        return load_any(conv_state, args.conv_state_dtype, at);
    }

    void keep(constant FwCausalUpdateArgs& args, int64_t s, int64_t d, int64_t i, float v) const {
        const int64_t at = s * args.conv_state[0] + d * args.conv_state[1] + i * args.conv_state[2];
        store_any(conv_state, args.conv_state_dtype, at, v);
    }

    // The input at t; before the first, what the state holds in front of `start`.
    float input(constant FwCausalUpdateArgs& args, int64_t b, int64_t s, int64_t d, int64_t start,
                int64_t t) const {
        if (t >= 0) return to_acc(x[b * args.x[0] + d * args.x[1] + t * args.x[2]]);
        return state(args, s, d, start + t < 0 ? start + t + args.length : start + t);
    }

    void fill(constant FwCausalUpdateArgs& args, int64_t b, int64_t d, float v) const {
        for (int64_t t = 0; t < args.steps; ++t) {
            y[b * args.y[0] + d * args.y[1] + t * args.y[2]] = from_acc<T>(v);
        }
    }

    // All steps of one entry on its state; `start` is where the state's next input goes.
    void run(constant FwCausalUpdateArgs& args, int64_t b, int64_t s, int64_t d, int64_t start,
             bool circular) const {
        const int64_t history = args.width - 1;
        for (int64_t t = 0; t < args.steps; ++t) {
            float sum = args.bias_dtype == FW_NONE ? 0.0f : load_any(bias, args.bias_dtype, d);
            for (int64_t k = 0; k <= history; ++k) {
                sum += load_any(weight, args.weight_dtype, d * args.width + k) *
                       input(args, b, s, d, start, t + k - history);
            }
            y[b * args.y[0] + d * args.y[1] + t * args.y[2]] =
                from_acc<T>(args.silu ? silu(sum) : sum);
        }
        if (circular) {
            for (int64_t t = 0; t < args.steps; ++t) {
                keep(args, s, d, (start + t) % args.length, input(args, b, s, d, start, t));
            }
            return;
        }
        for (int64_t i = 0; i < args.length; ++i) {
            const int64_t from = i + args.steps;
            keep(args, s, d, i,
                 from < args.length ? state(args, s, d, from)
                                    : input(args, b, s, d, start, from - args.length));
        }
    }
};

// A thread has a channel of an entry. Where later entries have the same state, it runs them as
// well, in their order, and their own threads leave them to it.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(64)]] void causal_conv1d_update_forward(
    const device T* x [[buffer(0)]], device uchar* conv_state [[buffer(1)]],
    const device uchar* weight [[buffer(2)]], const device uchar* bias [[buffer(3)]],
    const device uchar* cache_seqlens [[buffer(4)]],
    const device uchar* conv_state_indices [[buffer(5)]], device T* y [[buffer(6)]],
    constant FwCausalUpdateArgs& args [[buffer(7)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    const Step<T> step = {x, conv_state, weight, bias, y};
    const bool indexed = args.indices_dtype != FW_NONE, circular = args.seqlens_dtype != FW_NONE;
    const int64_t d = at.x;
    if (d >= args.channels || at.y > 0) return;
    for (int64_t entry = at.z; entry < args.batch; entry += grid.z) {
        const int64_t s =
            indexed ? load_integer(conv_state_indices, args.indices_dtype, entry) : entry;
        if (s < 0 || s >= args.states) {
            step.fill(args, entry, d, s < 0 ? 0.0f : NAN);
            continue;
        }
        bool first = true;
        for (int64_t b = 0; indexed && b < entry; ++b) {
            first = first && load_integer(conv_state_indices, args.indices_dtype, b) != s;
        }
        const int64_t end = !first ? entry : indexed ? args.batch : entry + 1;
        for (int64_t b = entry; b < end; ++b) {
            if (indexed && load_integer(conv_state_indices, args.indices_dtype, b) != s) continue;
            int64_t start = args.length;
            if (circular) {
                start = load_integer(cache_seqlens, args.seqlens_dtype, b) % args.length;
                if (start < 0) start += args.length;
            }
            step.run(args, b, s, d, start, circular);
        }
    }
}
FW_KERNELS("causal_conv1d_update_forward", causal_conv1d_update_forward)
