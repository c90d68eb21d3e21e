// What the two layouts of causal_conv1d share: the parameters of a call, and which taps a token
// sees.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <memory>

#include "cpu/activation.h"
#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

constexpr const char* kOp = "causal_conv1d";
constexpr int64_t kGrain = 16384;  // elements that are worth a thread

// The sizes of one call, its parameters in the accumulation type, and which taps a token sees.
template <class A>
struct Problem {
    int64_t batch, channels, length, width;
    bool silu;
    std::vector<A> weight;  // (channels, width), the tap of lag j at [width - 1 - j]
    std::vector<A> bias;    // (channels)
    std::vector<A> states;  // (batch, channels, width - 1)
    std::vector<A> taps;  // (batch, width, length): 1 where the token of that lag counts; or empty

    A w(int64_t channel, int64_t lag) const { return weight[channel * width + width - 1 - lag]; }
    const A* state(int64_t b, int64_t channel) const {
        return states.data() + (b * channels + channel) * (width - 1);
    }
    bool masked() const { return !taps.empty(); }
    const A* tap(int64_t b, int64_t lag) const { return taps.data() + (b * width + lag) * length; }
};

template <class A>
void find_taps(const Tensor& seq_idx, Problem<A>& p) {
    const Tensor dense = as_contiguous(seq_idx);
    const bool wide = dense.scalar_type() == torch::headeronly::ScalarType::Long;
    const auto id = [&](int64_t b, int64_t t) -> int64_t {
        const int64_t i = b * p.length + (t < 0 ? 0 : t);
        return wide ? dense.const_data_ptr<int64_t>()[i] : dense.const_data_ptr<int32_t>()[i];
    };
    p.taps.resize(p.batch * p.width * p.length);
    A* out = p.taps.data();
    for (int64_t b = 0; b < p.batch; ++b) {
        for (int64_t lag = 0; lag < p.width; ++lag) {
            for (int64_t t = 0; t < p.length; ++t) {
                *out++ = id(b, t) >= 0 && id(b, t) == id(b, t - lag);
            }
        }
    }
}

template <class A>
Problem<A> problem_of(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const std::optional<Tensor>& seq_idx,
                      const std::optional<Tensor>& initial_states, bool silu) {
    check_rank(x, 3, kOp, "x");
    check_filter(weight, bias, x.size(1), kOp);
    Problem<A> p{x.size(0), x.size(1), x.size(2), weight.size(1), silu, {}, {}, {}, {}};
    const int64_t states = p.batch * p.channels * (p.width - 1);
    check_shape(initial_states, {p.batch, p.channels, p.width - 1}, kOp, "initial_states");
    check_shape(seq_idx, {p.batch, p.length}, kOp, "seq_idx");
    p.weight = as_acc<A>(weight, kOp);
    p.bias = as_acc_or_zeros<A>(bias, p.channels, kOp);
    p.states = as_acc_or_zeros<A>(initial_states, states, kOp);
    if (present(seq_idx)) {
        find_taps(*seq_idx, p);
    }
    return p;
}

template <class A>
Vec<A> keep(Vec<A> mask, Vec<A> v) {
    return select(mask != Vec<A>(A(0)), v, Vec<A>(A(0)));
}

template <class A>
Vec<A> load_some(const A* p, int64_t n) {
    return n >= Vec<A>::size ? load<A>(p) : load_partial<A>(p, static_cast<int>(n));
}
template <class A, class T>
void store_some(T* p, Vec<A> v, int64_t n) {
    n >= Vec<A>::size ? store(p, v) : store_partial(p, v, static_cast<int>(n));
}

// One row with its history in front: `padded[width - 1 + t]` is x at t.
template <class A, class T>
void pad_row(const Problem<A>& p, const T* x, const A* state, A* padded) {
    std::copy(state, state + p.width - 1, padded);
    A* row = padded + p.width - 1;
    for (int64_t t = 0; t < p.length; t += Vec<A>::size) {
        const int64_t n = p.length - t;
        if (n >= Vec<A>::size) {
            store(row + t, load<A>(x + t));
        } else {
            store_partial(row + t, load_partial<A>(x + t, static_cast<int>(n)),
                          static_cast<int>(n));
        }
    }
}

// The convolution of one padded row at t, before the activation. kWidth 0 is any width.
template <int kWidth, class A>
Vec<A> convolve(const Problem<A>& p, const A* padded, const A* weight, A bias, int64_t b, int64_t t,
                int64_t n) {
    const int64_t width = kWidth > 0 ? kWidth : p.width;
    Vec<A> sum(bias);
    if (p.masked()) {
        for (int64_t k = 0; k < width; ++k) {
            const Vec<A> tap = load_some(p.tap(b, width - 1 - k) + t, n);
            sum = fma(Vec<A>(weight[k]), keep(tap, load_some(padded + t + k, n)), sum);
        }
        return sum;
    }
    for (int64_t k = 0; k < width; ++k) {
        sum = fma(Vec<A>(weight[k]), load_some(padded + t + k, n), sum);
    }
    return sum;
}

template <class A>
Vec<A> finish(const Problem<A>& p, Vec<A> pre, int64_t b, int64_t t, int64_t n) {
    const Vec<A> y = p.silu ? activate<Activation::silu>(pre) : pre;
    return p.masked() ? keep(load_some(p.tap(b, 0) + t, n), y) : y;
}

}  // namespace fusewright::cpu::FW_ISA
