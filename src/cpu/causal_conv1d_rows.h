// causal_conv1d where the length is contiguous: one row a (batch, channel).
#pragma once

#include "cpu/causal_conv1d.h"

namespace fusewright::cpu::FW_ISA {

constexpr int64_t kAhead = 2048;  // bytes between what is computed and what is asked for

// The outputs of a row of `n` tokens after the `kWidth - 1` of `state`. Every token is loaded once:
// the older ones that a vector of outputs needs are lanes of the vector before.
template <int kWidth, bool silu, class A, class T>
void convolve_row(const T* in, const A* state, const A* weight, A bias, int64_t n, T* out,
                  bool stream) {
    constexpr int lanes = Vec<A>::size, history = kWidth - 1;
    Vec<A> w[kWidth];
    for (int k = 0; k < kWidth; ++k) w[k] = Vec<A>(weight[k]);
    A oldest[lanes] = {};
    std::copy_n(state, history, oldest + lanes - history);
    Vec<A> before = load<A>(oldest);
    const auto next = [&](Vec<A> now) FW_INLINE_LAMBDA {
        Vec<A> sum(bias);
        repeat<kWidth>([&](auto k) FW_INLINE_LAMBDA {
            sum = fma(w[k], delayed<history - k>(before, now), sum);
        });
        before = now;
        if constexpr (silu) return activate<Activation::silu>(sum);
        return sum;
    };
    int64_t t = 0;
    for (; t + lanes <= n; t += lanes) {
        __builtin_prefetch(in + t + kAhead / sizeof(T));
        const Vec<A> y = next(load<A>(in + t));
        stream ? store_stream(out + t, y) : store(out + t, y);
    }
    if (t < n) {
        const int rest = static_cast<int>(n - t);
        store_partial(out + t, next(load_partial<A>(in + t, rest)), rest);
    }
}

template <class A, class T>
void forward_rows(const Problem<A>& p, const Tensor& x, const Tensor& y) {
    const T* in = x.const_data_ptr<T>();
    T* out = y.mutable_data_ptr<T>();
    const int64_t grain = std::max<int64_t>(1, kGrain / (p.length + 1));
    const bool stream = worth_streaming(y);
    with_constant<2, 3, 4>(p.width, [&](auto width) {
        // Other widths, and a history longer than a vector, read a padded copy of the row.
        constexpr bool in_lanes = 0 < width && width - 1 <= Vec<A>::size;
        const bool padding = !in_lanes || p.masked();
        torch::stable::parallel_for(
            0, p.batch * p.channels, grain, [&](int64_t begin, int64_t end) {
                std::vector<A> padded(padding ? p.length + p.width - 1 : 0);
                for (int64_t row = begin; row < end; ++row) {
                    const int64_t b = row / p.channels, channel = row % p.channels;
                    const T* from = in + b * x.stride(0) + channel * x.stride(1);
                    T* to = out + b * y.stride(0) + channel * y.stride(1);
                    const A* weight = &p.weight[channel * p.width];
                    const A* state = p.state(b, channel);
                    const A bias = p.bias[channel];
                    if constexpr (in_lanes) {
                        if (!padding) {
                            p.silu ? convolve_row<width, true>(from, state, weight, bias, p.length,
                                                               to, stream)
                                   : convolve_row<width, false>(from, state, weight, bias, p.length,
                                                                to, stream);
                            continue;
                        }
                    }
                    pad_row(p, from, state, padded.data());
                    for (int64_t t = 0; t < p.length; t += Vec<A>::size) {
                        const int64_t n = p.length - t;
                        const Vec<A> pre = convolve<width>(p, padded.data(), weight, bias, b, t, n);
                        store_some(to + t, finish(p, pre, b, t, n), n);
                    }
                }
                stream_fence();
            });
    });
}

// Buffers of one thread for the gradient of a row; `g` has width - 1 zeros on both sides.
template <class A>
struct RowScratch {
    std::vector<A> padded, g, masked, full;
    explicit RowScratch(const Problem<A>& p)
        : padded(p.length + p.width - 1),
          g(p.length + 2 * (p.width - 1)),
          masked(p.masked() ? g.size() : 0),
          full(p.length + p.width - 1) {}
};

// g = the gradient of the convolution's result, before the activation.
template <int kWidth, class A, class T>
void row_gradient_before_activation(const Problem<A>& p, const T* grad, const A* weight, A bias,
                                    int64_t b, RowScratch<A>& s) {
    A* g = s.g.data() + p.width - 1;
    for (int64_t t = 0; t < p.length; t += Vec<A>::size) {
        const int64_t n = p.length - t;
        Vec<A> v =
            n >= Vec<A>::size ? load<A>(grad + t) : load_partial<A>(grad + t, static_cast<int>(n));
        if (p.silu) {
            const Vec<A> pre = convolve<kWidth>(p, s.padded.data(), weight, bias, b, t, n);
            v = v * activate_grad<Activation::silu>(pre);
        }
        if (p.masked()) {
            v = keep(load_some(p.tap(b, 0) + t, n), v);
        }
        store_some(g + t, v, n);
    }
}

// g where the tap of that lag counts, in the padded form of `g`.
template <class A>
const A* gradient_of_tap(const Problem<A>& p, int64_t b, int64_t lag, RowScratch<A>& s) {
    if (!p.masked()) {
        return s.g.data();
    }
    const A* tap = p.tap(b, lag);
    const A* g = s.g.data() + p.width - 1;
    A* masked = s.masked.data() + p.width - 1;
    for (int64_t t = 0; t < p.length; ++t) {
        masked[t] = tap[t] != 0 ? g[t] : A(0);
    }
    return s.masked.data();
}

// The gradient of the padded row, and the sums that make the weight's and the bias's gradient.
template <int kWidth, class A>
void row_gradients(const Problem<A>& p, const A* weight, int64_t b, RowScratch<A>& s, A* sums) {
    const int64_t width = kWidth > 0 ? kWidth : p.width;
    const int64_t padded_length = p.length + width - 1;
    const auto dot = [&](const A* a, const A* other) {
        Vec<A> total[4];
        int64_t t = 0;
        for (; t + 4 * Vec<A>::size <= p.length; t += 4 * Vec<A>::size) {
            for (int i = 0; i < 4; ++i) {
                const int64_t at = t + i * Vec<A>::size;
                total[i] = other == nullptr ? total[i] + load<A>(a + at)
                                            : fma(load<A>(a + at), load<A>(other + at), total[i]);
            }
        }
        for (; t < p.length; t += Vec<A>::size) {
            const int64_t n = p.length - t;
            const Vec<A> v = load_some(a + t, n);
            total[0] += other == nullptr ? v : v * load_some(other + t, n);
        }
        return ((total[0] + total[1]) + (total[2] + total[3])).sum();
    };
    if (!p.masked()) {
        const A* g = s.g.data();
        for (int64_t q = 0; q < padded_length; q += Vec<A>::size) {
            const int64_t n = padded_length - q;
            Vec<A> sum;
            for (int64_t lag = 0; lag < width; ++lag) {
                sum = fma(Vec<A>(weight[width - 1 - lag]), load_some(g + q + lag, n), sum);
            }
            store_some(&s.full[q], sum, n);
        }
    } else {
        std::fill(s.full.begin(), s.full.end(), A(0));
    }
    for (int64_t lag = 0; lag < width; ++lag) {
        const A* g = gradient_of_tap(p, b, lag, s);
        if (p.masked()) {
            for (int64_t q = 0; q < padded_length; ++q) {
                s.full[q] += weight[width - 1 - lag] * g[q + lag];
            }
        }
        sums[width - 1 - lag] = dot(g + width - 1, s.padded.data() + width - 1 - lag);
    }
    sums[width] = dot(s.g.data() + width - 1, nullptr);
}

template <class A>
bool counts_in_final_state(const Problem<A>& p, int64_t b, int64_t i) {
    return !p.masked() || p.length == 0 || p.tap(b, p.width - 2 - i)[p.length - 1] != 0;
}

// Gradients of everything; `sums` is (batch, channels, width + 1), `dstates` like the states.
template <class A, class T>
void backward_rows(const Problem<A>& p, const Tensor& x, const Tensor& grad,
                   const std::vector<A>& dfinal, const Tensor& dx, A* sums, A* dstates) {
    const T* in = x.const_data_ptr<T>();
    const T* dout = grad.const_data_ptr<T>();
    T* to = dx.mutable_data_ptr<T>();
    const int64_t history = p.width - 1;
    const int64_t grain = std::max<int64_t>(1, kGrain / (p.length + 1));
    with_constant<2, 3, 4>(p.width, [&](auto width) {
        torch::stable::parallel_for(
            0, p.batch * p.channels, grain, [&](int64_t begin, int64_t end) {
                RowScratch<A> s(p);
                for (int64_t row = begin; row < end; ++row) {
                    const int64_t b = row / p.channels, channel = row % p.channels;
                    const A* weight = &p.weight[channel * p.width];
                    pad_row(p, in + b * x.stride(0) + channel * x.stride(1), p.state(b, channel),
                            s.padded.data());
                    row_gradient_before_activation<decltype(width)::value>(
                        p, dout + b * grad.stride(0) + channel * grad.stride(1), weight,
                        p.bias[channel], b, s);
                    row_gradients<decltype(width)::value>(p, weight, b, s,
                                                          sums + row * (p.width + 1));
                    for (int64_t i = 0; i < history && !dfinal.empty(); ++i) {
                        if (counts_in_final_state(p, b, i)) {
                            s.full[p.length + i] += dfinal[row * history + i];
                        }
                    }
                    std::copy_n(s.full.data(), history, dstates + row * history);
                    T* drow = to + b * dx.stride(0) + channel * dx.stride(1);
                    for (int64_t t = 0; t < p.length; t += Vec<A>::size) {
                        const int64_t n = p.length - t;
                        store_some(drow + t, load_some(&s.full[history + t], n), n);
                    }
                }
            });
    });
}

}  // namespace fusewright::cpu::FW_ISA
