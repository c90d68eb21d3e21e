// causal_conv1d where the channels are contiguous: rows of channels, in tiles of channels and
// chunks of time.
#pragma once

#include "cpu/causal_conv1d.h"

namespace fusewright::cpu::FW_ISA {

constexpr int64_t kTile = 512;
constexpr int64_t kForwardChunk = 32;

// The parameters with the channels last, as the rows are.
template <class A>
struct ChannelLast {
    std::vector<A> weight;  // (width, channels)
    std::vector<A> states;  // (batch, width - 1, channels)

    explicit ChannelLast(const Problem<A>& p) : weight(p.weight.size()), states(p.states.size()) {
        const int64_t history = p.width - 1;
        for (int64_t channel = 0; channel < p.channels; ++channel) {
            for (int64_t k = 0; k < p.width; ++k) {
                weight[k * p.channels + channel] = p.weight[channel * p.width + k];
            }
            for (int64_t b = 0; b < p.batch; ++b) {
                for (int64_t i = 0; i < history; ++i) {
                    states[(b * history + i) * p.channels + channel] = p.state(b, channel)[i];
                }
            }
        }
    }
};

// Times [from, from + rows) of one batch and one tile of channels as accumulators; the history
// comes from the states, and what lies past the end is left as it is.
template <class A, class T>
void gather_tile(const Problem<A>& p, const ChannelLast<A>& c, const Tensor& x, int64_t b,
                 int64_t from, int64_t rows, int64_t channel, int64_t tile, A* out) {
    const T* in = x.const_data_ptr<T>() + b * x.stride(0) + channel;
    const int64_t history = p.width - 1;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = from + r;
        if (t < 0) {
            std::copy_n(&c.states[(b * history + t + history) * p.channels + channel], tile,
                        out + r * kTile);
        } else if (t < p.length) {
            const T* row = in + t * x.stride(2);
            for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                const int n = static_cast<int>(std::min<int64_t>(tile - d, Vec<A>::size));
                store_partial(out + r * kTile + d, load_partial<A>(row + d, n), n);
            }
        }
    }
}

// The convolution at one time, before the activation; `rows` is the tile from time t - width + 1.
template <int kWidth, class A>
Vec<A> convolve_channels(const Problem<A>& p, const ChannelLast<A>& c, const A* rows, int64_t b,
                         int64_t t, int64_t channel, int64_t n) {
    const int64_t width = kWidth > 0 ? kWidth : p.width;
    Vec<A> sum = load_some(&p.bias[channel], n);
    for (int64_t k = 0; k < width; ++k) {
        if (p.masked() && p.tap(b, width - 1 - k)[t] == 0) {
            continue;
        }
        sum = fma(load_some(&c.weight[k * p.channels + channel], n), load_some(rows + k * kTile, n),
                  sum);
    }
    return sum;
}

// Calls f(batch, first time, end time, first channel, channels) for every tile, in parallel.
template <class A, class F>
void for_each_tile(const Problem<A>& p, int64_t chunk, F&& f) {
    const int64_t chunks = (p.length + chunk - 1) / chunk;
    const int64_t tiles = (p.channels + kTile - 1) / kTile;
    const int64_t work = std::min(chunk, p.length + 1) * std::min(kTile, p.channels + 1);
    const int64_t grain = std::max<int64_t>(1, kGrain / work);
    torch::stable::parallel_for(
        0, p.batch * chunks * tiles, grain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t tile = i % tiles, part = i / tiles % chunks, b = i / tiles / chunks;
                f(b, part * chunk, std::min((part + 1) * chunk, p.length), tile * kTile,
                  std::min(kTile, p.channels - tile * kTile));
            }
        });
}

// The outputs of one token; `x` is that token, the older ones lie `step` elements apart before it.
template <int kWidth, bool silu, class A, class T>
void convolve_token(const T* x, int64_t step, const A* weight, const A* bias, int64_t channels,
                    int64_t tile, T* y, bool stream) {
    constexpr int lanes = Vec<A>::size, history = kWidth - 1;
    const auto at = [&](int64_t d, auto load_at) FW_INLINE_LAMBDA {
        Vec<A> sum = load_at(bias + d);
        for (int k = 0; k < kWidth; ++k) {
            sum =
                fma(load_at(weight + k * channels + d), load_at(x + (k - history) * step + d), sum);
        }
        if constexpr (silu) return activate<Activation::silu>(sum);
        return sum;
    };
    int64_t d = 0;
    for (; d + lanes <= tile; d += lanes) {
        __builtin_prefetch(x + 2 * step + d);
        const Vec<A> v = at(d, [](const auto* p) FW_INLINE_LAMBDA { return load<A>(p); });
        stream ? store_stream(y + d, v) : store(y + d, v);
    }
    if (d < tile) {
        const int n = static_cast<int>(tile - d);
        store_partial(
            y + d, at(d, [=](const auto* p) FW_INLINE_LAMBDA { return load_partial<A>(p, n); }), n);
    }
}

template <class A, class T>
void forward_channels(const Problem<A>& p, const Tensor& x, const Tensor& y) {
    const ChannelLast<A> c(p);
    const int64_t history = p.width - 1;
    const T* const x_data = x.const_data_ptr<T>();
    T* const y_data = y.mutable_data_ptr<T>();
    const bool stream = worth_streaming(y);
    const auto body = [&](auto width, int64_t b, int64_t from, int64_t to, int64_t channel,
                          int64_t tile) {
        T* const out = y_data + b * y.stride(0) + channel;
        // From here on the taps of a token are all in x, and all count.
        const bool whole = width > 0 && !p.masked();
        const int64_t first = whole ? std::clamp(history, from, to) : to;
        if (from < first) {
            const std::unique_ptr<A[]> rows(new A[(first - from + history) * kTile]);
            gather_tile<A, T>(p, c, x, b, from - history, first - from + history, channel, tile,
                              rows.get());
            for (int64_t t = from; t < first; ++t) {
                for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                    const int64_t n = tile - d;
                    Vec<A> v = convolve_channels<decltype(width)::value>(
                        p, c, &rows[(t - from) * kTile + d], b, t, channel + d, n);
                    if (p.silu) v = activate<Activation::silu>(v);
                    if (p.masked() && p.tap(b, 0)[t] == 0) v = Vec<A>(A(0));
                    store_some(out + t * y.stride(2) + d, v, n);
                }
            }
        }
        if constexpr (width > 0) {
            const int64_t step = x.stride(2);
            const T* const in = x_data + b * x.stride(0) + channel;
            const auto run = [&](auto silu) {
                for (int64_t t = first; t < to; ++t) {
                    convolve_token<width, silu>(in + t * step, step, &c.weight[channel],
                                                &p.bias[channel], p.channels, tile,
                                                out + t * y.stride(2), stream);
                }
            };
            p.silu ? run(std::true_type()) : run(std::false_type());
        }
        stream_fence();
    };
    with_constant<2, 3, 4>(p.width, [&](auto width) {
        for_each_tile(p, kForwardChunk, [&](auto... at) { body(width, at...); });
    });
}

// Long chunks, so that the partial sums of the weight gradient stay few.
template <class A>
int64_t backward_chunk(const Problem<A>& p) {
    return std::max<int64_t>(64, (p.length + 15) / 16);
}

// The gradients of one vector of channels over the tokens [from, to), all in one pass: the last
// kWidth tokens and their gradients stay in registers. `rows` is the tile from time from - width +
// 1 on; `dout` and `dx` are at time 0 of the channels, of which there are n.
template <int kWidth, bool silu, class A, class T>
void march(const Problem<A>& p, const ChannelLast<A>& c, const A* rows, int64_t b, int64_t from,
           int64_t to, int64_t channel, int64_t n, const T* dout, int64_t dout_step,
           const std::vector<A>& dfinal, T* dx, int64_t dx_step, A* dstates, A* sums) {
    constexpr int lanes = Vec<A>::size, history = kWidth - 1;
    const Vec<A> bias = load_some(&p.bias[channel], n);
    Vec<A> w[kWidth], x[kWidth], g[kWidth], dweight[kWidth], dbias;
    for (int k = 0; k < kWidth; ++k) w[k] = load_some(&c.weight[k * p.channels + channel], n);
    for (int k = 0; k < history; ++k) x[k + 1] = load_some(rows + k * kTile, n);
    const int64_t length = p.length;
    for (int64_t t = from; t < to + history; ++t) {
        for (int k = 0; k < history; ++k) x[k] = x[k + 1], g[k] = g[k + 1];
        g[history] = Vec<A>();
        if (t < length) {
            x[history] = load_some(rows + (t - from + history) * kTile, n);
            const T* grad = dout + t * dout_step;
            __builtin_prefetch(grad + 2 * lanes, 0, 2);  // for the channels after the next
            Vec<A> v = n >= lanes ? load<A>(grad) : load_partial<A>(grad, static_cast<int>(n));
            if constexpr (silu) {
                Vec<A> pre = bias;
                for (int k = 0; k < kWidth; ++k) pre = fma(w[k], x[k], pre);
                v *= activate_grad<Activation::silu>(pre);
            }
            g[history] = v;
            if (t < to) {
                for (int k = 0; k < kWidth; ++k) dweight[k] = fma(v, x[k], dweight[k]);
                dbias += v;
            }
        }
        // The gradient of x at `at`, or of the states before the first token.
        const int64_t at = t - history;
        if (at < from && from > 0) continue;
        Vec<A> v;
        for (int lag = 0; lag < kWidth; ++lag) v = fma(w[history - lag], g[lag], v);
        const int64_t i = at - length + history;  // its place in the final states
        if (i >= 0 && !dfinal.empty()) {
            for (int64_t lane = 0; lane < std::min<int64_t>(n, lanes); ++lane) {
                v.v[lane] += dfinal[(b * p.channels + channel + lane) * history + i];
            }
        }
        if (at < 0) {
            store_some(&dstates[(b * history + at + history) * p.channels + channel], v, n);
        } else {
            store_some(dx + at * dx_step, v, n);
        }
    }
    for (int k = 0; k < kWidth; ++k) store_some(sums + k * p.channels, dweight[k], n);
    store_some(sums + kWidth * p.channels, dbias, n);
}

// As `backward_rows`; `sums` is (batch, chunks, width + 1, channels) and `dstates` has the
// channels last.
template <class A, class T>
void backward_channels(const Problem<A>& p, const ChannelLast<A>& c, const Tensor& x,
                       const Tensor& grad, const std::vector<A>& dfinal, const Tensor& dx, A* sums,
                       A* dstates) {
    const int64_t chunk = backward_chunk(p), chunks = (p.length + chunk - 1) / chunk;
    const int64_t history = p.width - 1;
    const auto body = [&](auto width, int64_t b, int64_t from, int64_t to, int64_t channel,
                          int64_t tile) {
        constexpr int kWidth = decltype(width)::value;
        const int64_t g_end = std::min(to + history, p.length);
        const std::unique_ptr<A[]> rows(new A[(g_end - from + history) * kTile]);
        gather_tile<A, T>(p, c, x, b, from - history, g_end - from + history, channel, tile,
                          rows.get());
        const T* dout = grad.const_data_ptr<T>() + b * grad.stride(0) + channel;
        A* total = sums + (b * chunks + from / chunk) * (p.width + 1) * p.channels + channel;
        if constexpr (kWidth > 0) {
            if (!p.masked()) {
                T* to_x = dx.mutable_data_ptr<T>() + b * dx.stride(0) + channel;
                const auto run = [&](auto silu) {
                    for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                        march<kWidth, silu>(p, c, &rows[d], b, from, to, channel + d, tile - d,
                                            dout + d, grad.stride(2), dfinal, to_x + d,
                                            dx.stride(2), dstates, total + d);
                    }
                };
                return p.silu ? run(std::true_type()) : run(std::false_type());
            }
        }
        std::vector<A> g((to - from + history) * kTile);
        for (int64_t t = from; t < g_end; ++t) {
            if (p.masked() && p.tap(b, 0)[t] == 0) continue;
            for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                const int n = static_cast<int>(std::min<int64_t>(tile - d, Vec<A>::size));
                Vec<A> v = load_partial<A>(dout + t * grad.stride(2) + d, n);
                if (p.silu) {
                    v *= activate_grad<Activation::silu>(convolve_channels<kWidth>(
                        p, c, &rows[(t - from) * kTile + d], b, t, channel + d, n));
                }
                store_partial(&g[(t - from) * kTile + d], v, n);
            }
        }
        // dx at t sums over the lags; the first chunk does the states, at t < 0, too.
        for (int64_t t = from == 0 ? -history : from; t < to; ++t) {
            for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                const int64_t n = tile - d;
                Vec<A> v;
                for (int64_t lag = std::max<int64_t>(0, -t); lag <= history; ++lag) {
                    const int64_t at = t + lag;
                    if (at >= p.length || (p.masked() && p.tap(b, lag)[at] == 0)) continue;
                    v = fma(load_some(&c.weight[(history - lag) * p.channels + channel + d], n),
                            load_some(&g[(at - from) * kTile + d], n), v);
                }
                const int64_t i = t - p.length + history;  // its place in the final states
                if (i >= 0 && !dfinal.empty() && counts_in_final_state(p, b, i)) {
                    for (int64_t lane = 0; lane < std::min<int64_t>(n, Vec<A>::size); ++lane) {
                        v.v[lane] += dfinal[(b * p.channels + channel + d + lane) * history + i];
                    }
                }
                if (t < 0) {
                    store_some(&dstates[(b * history + t + history) * p.channels + channel + d], v,
                               n);
                } else {
                    T* out = dx.mutable_data_ptr<T>() + b * dx.stride(0) + t * dx.stride(2);
                    store_some(out + channel + d, v, n);
                }
            }
        }
        for (int64_t d = 0; d < tile; d += Vec<A>::size) {
            const int64_t n = tile - d;
            for (int64_t k = 0; k <= p.width; ++k) {  // k == width: the bias
                Vec<A> sum;
                for (int64_t t = from; t < to; ++t) {
                    if (p.masked() && p.tap(b, k < p.width ? history - k : 0)[t] == 0) continue;
                    const Vec<A> v = load_some(&g[(t - from) * kTile + d], n);
                    sum = k < p.width ? fma(v, load_some(&rows[(t - from + k) * kTile + d], n), sum)
                                      : sum + v;
                }
                store_some(total + k * p.channels + d, sum, n);
            }
        }
    };
    with_constant<2, 3, 4>(p.width, [&](auto width) {
        for_each_tile(p, chunk, [&](auto... at) { body(width, at...); });
    });
}

}  // namespace fusewright::cpu::FW_ISA
