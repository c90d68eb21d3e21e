// What the kernels of causal_conv1d share: which inputs a token sees, and its sum.
#pragma once

#include "activation.h"

// The tensors of the forward that the backward reads as well.
template <typename T>
struct Causal {
    const device T* x;
    const device uchar* weight;
    const device uchar* bias;
    const device uchar* seq_idx;
    const device uchar* initial_states;

    // Whether token t sees the input at that lag. Before the first token stands its sequence.
    bool sees(constant FwCausalArgs& args, int64_t b, int64_t t, int64_t lag) const {
        if (args.seq_idx_dtype == FW_NONE) return true;
        const int64_t row = b * args.seq_idx[0], before = max(t - lag, int64_t(0));
        const int64_t id = load_integer(seq_idx, args.seq_idx_dtype, row + t * args.seq_idx[1]);
        return id >= 0 && (lag == 0 || id == load_integer(seq_idx, args.seq_idx_dtype,
                                                          row + before * args.seq_idx[1]));
    }

    // The input at t, or for t < 0 the initial state there.
    float input(constant FwCausalArgs& args, int64_t b, int64_t d, int64_t t) const {
        if (t >= 0) return to_acc(x[b * args.x[0] + d * args.x[1] + t * args.x[2]]);
        if (args.initial_dtype == FW_NONE) return 0.0f;
        const int64_t at = b * args.initial_states[0] + d * args.initial_states[1] +
                           (t + args.width - 1) * args.initial_states[2];
        return load_any(initial_states, args.initial_dtype, at);
    }

    float tap(constant FwCausalArgs& args, int64_t d, int64_t lag) const {
        return load_any(weight, args.weight_dtype, d * args.width + args.width - 1 - lag);
    }

    float offset(constant FwCausalArgs& args, int64_t d) const {
        return args.bias_dtype == FW_NONE ? 0.0f : load_any(bias, args.bias_dtype, d);
    }

    float sum(constant FwCausalArgs& args, int64_t b, int64_t d, int64_t t) const {
        float total = offset(args, d);
        for (int64_t lag = 0; lag < args.width; ++lag) {
            if (sees(args, b, t, lag)) total += tap(args, d, lag) * input(args, b, d, t - lag);
        }
        return total;
    }

    // The gradient at the sum of token t.
    float gradient(const device T* grad_y, constant FwCausalArgs& args, int64_t b, int64_t d,
                   int64_t t) const {
        if (!args.has_grad_y || !sees(args, b, t, 0)) return 0.0f;
        const float g = to_acc(grad_y[b * args.y[0] + d * args.y[1] + t * args.y[2]]);
        return args.silu ? g * silu_grad(sum(args, b, d, t)) : g;
    }

    // Whether the final state of the input at t is kept: that of the last token's sequence is.
    bool lasts(constant FwCausalArgs& args, int64_t b, int64_t t) const {
        return args.length == 0 || sees(args, b, args.length - 1, args.length - 1 - t);
    }
};

enum { kTokens = 4 };  // of a thread, as in plan.h

// A thread's run of tokens: for (b, d, first token) of `tokens`, as causal_grid lays them out.
#define FW_FOR_RUNS(args, tokens, at, grid)                                        \
    for (int64_t b = at.z; b < args.batch; b += grid.z)                            \
        for (int64_t row = at.y, run = at.x, d = args.channels_inside ? run : row, \
                     first = (args.channels_inside ? row : run) * kTokens;         \
             d < args.channels && first < (tokens);                                \
             row += grid.y, d = args.channels_inside ? run : row,                  \
                     first = (args.channels_inside ? row : run) * kTokens)
