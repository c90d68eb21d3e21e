// Causal depthwise 1D convolution. Rows of (batch, channel) when the length is contiguous, rows of
// channels when those are (channel-last); other strides are made contiguous first.

#include <torch/csrc/stable/ops.h>

#include <memory>

#include "cpu/activation.h"
#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "cpu/vec.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
namespace {

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
    FW_CHECK(x.dim() == 3 && weight.dim() == 2 && weight.size(0) == x.size(1), kOp,
             "x must be (batch, channels, length) and weight (channels, width)");
    Problem<A> p{x.size(0), x.size(1), x.size(2), weight.size(1), silu, {}, {}, {}, {}};
    FW_CHECK(!present(bias) || bias->numel() == p.channels, kOp, "bias must be (channels,)");
    const int64_t states = p.batch * p.channels * (p.width - 1);
    FW_CHECK(!present(initial_states) || initial_states->numel() == states, kOp,
             "initial_states must be (batch, channels, width - 1)");
    FW_CHECK(!present(seq_idx) || seq_idx->numel() == p.batch * p.length, kOp,
             "seq_idx must be (batch, length)");
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

template <class F>
void with_width(int64_t width, F&& f) {
    switch (width) {
        case 2:
            return f(std::integral_constant<int, 2>{});
        case 3:
            return f(std::integral_constant<int, 3>{});
        case 4:
            return f(std::integral_constant<int, 4>{});
        default:
            return f(std::integral_constant<int, 0>{});
    }
}

// ---- contiguous length: one row a (batch, channel) ----

template <class A, class T>
void forward_rows(const Problem<A>& p, const Tensor& x, const Tensor& y) {
    const T* in = x.const_data_ptr<T>();
    T* out = y.mutable_data_ptr<T>();
    const int64_t grain = std::max<int64_t>(1, kGrain / (p.length + 1));
    with_width(p.width, [&](auto width) {
        torch::stable::parallel_for(
            0, p.batch * p.channels, grain, [&](int64_t begin, int64_t end) {
                std::vector<A> padded(p.length + p.width - 1);
                for (int64_t row = begin; row < end; ++row) {
                    const int64_t b = row / p.channels, channel = row % p.channels;
                    pad_row(p, in + b * x.stride(0) + channel * x.stride(1), p.state(b, channel),
                            padded.data());
                    T* to = out + b * y.stride(0) + channel * y.stride(1);
                    const A* weight = &p.weight[channel * p.width];
                    for (int64_t t = 0; t < p.length; t += Vec<A>::size) {
                        const int64_t n = p.length - t;
                        const Vec<A> pre = convolve<decltype(width)::value>(
                            p, padded.data(), weight, p.bias[channel], b, t, n);
                        store_some(to + t, finish(p, pre, b, t, n), n);
                    }
                }
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
    with_width(p.width, [&](auto width) {
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

// ---- channel-last: rows of channels, in tiles of channels and chunks of time ----

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

template <class A, class T>
void forward_channels(const Problem<A>& p, const Tensor& x, const Tensor& y) {
    const ChannelLast<A> c(p);
    with_width(p.width, [&](auto width) {
        for_each_tile(p, kForwardChunk,
                      [&](int64_t b, int64_t from, int64_t to, int64_t channel, int64_t tile) {
                          const int64_t history = p.width - 1;
                          const std::unique_ptr<A[]> rows(new A[(to - from + history) * kTile]);
                          gather_tile<A, T>(p, c, x, b, from - history, to - from + history,
                                            channel, tile, rows.get());
                          for (int64_t t = from; t < to; ++t) {
                              T* out = y.mutable_data_ptr<T>() + b * y.stride(0) + t * y.stride(2) +
                                       channel;
                              for (int64_t d = 0; d < tile; d += Vec<A>::size) {
                                  const int64_t n = tile - d;
                                  Vec<A> v = convolve_channels<decltype(width)::value>(
                                      p, c, &rows[(t - from) * kTile + d], b, t, channel + d, n);
                                  if (p.silu) v = activate<Activation::silu>(v);
                                  if (p.masked() && p.tap(b, 0)[t] == 0) v = Vec<A>(A(0));
                                  store_some(out + d, v, n);
                              }
                          }
                      });
    });
}

// Long chunks, so that the partial sums of the weight gradient stay few.
template <class A>
int64_t backward_chunk(const Problem<A>& p) {
    return std::max<int64_t>(64, (p.length + 15) / 16);
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
        std::vector<A> rows((g_end - from + history) * kTile), g((to - from + history) * kTile);
        gather_tile<A, T>(p, c, x, b, from - history, g_end - from + history, channel, tile,
                          rows.data());
        const T* dout = grad.const_data_ptr<T>() + b * grad.stride(0) + channel;
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
        A* total = sums + (b * chunks + from / chunk) * (p.width + 1) * p.channels + channel;
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
    with_width(p.width, [&](auto width) {
        for_each_tile(p, chunk, [&](auto... at) { body(width, at...); });
    });
}

// ---- the operator ----

enum class Layout { rows, channels };

// The layout that a dense tensor has; nothing if neither dimension is the innermost.
std::optional<Layout> layout_of(const Tensor& t) {
    if (t.size(2) == 0) return Layout::rows;
    if (t.stride(1) == 1 && (t.size(2) <= 1 || t.stride(2) != 1)) return Layout::channels;
    if (t.size(2) <= 1 || t.stride(2) == 1) return Layout::rows;
    return t.size(1) <= 1 ? std::optional(Layout::channels) : std::nullopt;
}

bool has_layout(const Tensor& t, Layout layout) {
    const int64_t inner = layout == Layout::rows ? 2 : 1;
    return t.size(inner) <= 1 || t.stride(inner) == 1;
}

// `t` itself if it has the layout, else a copy with the strides of `like`.
Tensor in_layout(const Tensor& t, Layout layout, const Tensor& like) {
    if (has_layout(t, layout)) return t;
    Tensor copy = fresh_like(like);
    torch::stable::copy_(copy, t);
    return copy;
}

Tensor zeros_like(const Tensor& t) {
    Tensor zeros = fresh_like(t);
    return torch::stable::zero_(zeros);
}

template <class A, class T>
Tensor final_states_of(const Problem<A>& p, const Tensor& x) {
    const int64_t history = p.width - 1;
    Tensor result = fresh(x, {p.batch, p.channels, history});
    T* out = result.mutable_data_ptr<T>();
    const T* in = x.const_data_ptr<T>();
    for (int64_t b = 0; b < p.batch; ++b) {
        for (int64_t channel = 0; channel < p.channels; ++channel) {
            for (int64_t i = 0; i < history; ++i) {
                const int64_t t = p.length - history + i;
                const bool counts = counts_in_final_state(p, b, i);
                *out++ = !counts ? from_acc<T>(A(0))
                         : t < 0 ? from_acc<T>(p.state(b, channel)[t + history])
                                 : in[b * x.stride(0) + channel * x.stride(1) + t * x.stride(2)];
            }
        }
    }
    return result;
}

}  // namespace
}  // namespace fusewright::cpu::FW_ISA

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::causal_conv1d(const Tensor& x, const Tensor& weight,
                                            const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& seq_idx,
                                            const std::optional<Tensor>& initial_states, bool silu,
                                            bool return_final_states) {
    return fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Problem<A> p = problem_of<A>(x, weight, bias, seq_idx, initial_states, silu);
        Tensor y = fresh_like(x);
        const auto layout = layout_of(y);
        Tensor dense = layout ? y : fresh(x, {p.batch, p.channels, p.length});
        const Tensor in = in_layout(x, layout.value_or(Layout::rows), dense);
        if (layout.value_or(Layout::rows) == Layout::rows) {
            forward_rows<A, T>(p, in, dense);
        } else {
            forward_channels<A, T>(p, in, dense);
        }
        if (!layout) torch::stable::copy_(y, dense);
        return std::tuple(y, return_final_states ? final_states_of<A, T>(p, x) : none_like(x));
    });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> k::causal_conv1d_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_final_states,
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seq_idx, const std::optional<Tensor>& initial_states, bool silu,
    int64_t needs) {
    return fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Problem<A> p = problem_of<A>(x, weight, bias, seq_idx, initial_states, silu);
        const int64_t history = p.width - 1;
        FW_CHECK(!present(grad_y) || grad_y->numel() == x.numel(), kOp,
                 "grad_y must have the shape of x");
        FW_CHECK(!present(grad_final_states) ||
                     grad_final_states->numel() == static_cast<int64_t>(p.states.size()),
                 kOp, "grad_final_states must be (batch, channels, width - 1)");
        Tensor dx = fresh_like(x);
        const auto layout = layout_of(dx);
        Tensor dense = layout ? dx : fresh(x, {p.batch, p.channels, p.length});
        const Layout chosen = layout.value_or(Layout::rows);
        const Tensor in = in_layout(x, chosen, dense);
        const Tensor grad = present(grad_y) ? in_layout(*grad_y, chosen, dense) : zeros_like(dense);
        const std::vector<A> dfinal =
            present(grad_final_states) ? as_acc<A>(*grad_final_states, kOp) : std::vector<A>();

        // Partial sums of the weight's and the bias's gradient, added up in a fixed order.
        std::vector<A> dstates(p.states.size());
        std::vector<double> total(p.channels * (p.width + 1));
        if (chosen == Layout::rows) {
            std::vector<A> sums(p.batch * p.channels * (p.width + 1));
            backward_rows<A, T>(p, in, grad, dfinal, dense, sums.data(), dstates.data());
            for (size_t i = 0; i < sums.size(); ++i) total[i % total.size()] += sums[i];
        } else {
            const int64_t chunks = (p.length + backward_chunk(p) - 1) / backward_chunk(p);
            std::vector<A> sums(p.batch * chunks * total.size()), last(dstates.size());
            const ChannelLast<A> c(p);
            backward_channels<A, T>(p, c, in, grad, dfinal, dense, sums.data(), last.data());
            for (int64_t part = 0; part < p.batch * chunks; ++part) {
                for (int64_t k = 0; k <= p.width; ++k) {
                    for (int64_t channel = 0; channel < p.channels; ++channel) {
                        total[channel * (p.width + 1) + k] +=
                            sums[(part * (p.width + 1) + k) * p.channels + channel];
                    }
                }
            }
            for (int64_t i = 0; i < static_cast<int64_t>(last.size()); ++i) {
                const int64_t channel = i % p.channels, at = i / p.channels;
                const int64_t b = at / history, place = at % history;
                dstates[(b * p.channels + channel) * history + place] = last[i];
            }
        }
        if (!layout) torch::stable::copy_(dx, dense);

        std::vector<double> dweight(p.weight.size()), dbias(p.channels);
        for (int64_t channel = 0; channel < p.channels; ++channel) {
            const double* sum = &total[channel * (p.width + 1)];
            std::copy_n(sum, p.width, &dweight[channel * p.width]);
            dbias[channel] = sum[p.width];
        }
        const auto result = [&](int bit, const std::optional<Tensor>& like, const auto& values) {
            if (!(needs >> bit & 1) || !present(like)) return none_like(x);
            Tensor dense_result = as_contiguous(fresh_like(*like));
            write_acc(dense_result, values.data(), kOp);
            Tensor strided = fresh_like(*like);
            torch::stable::copy_(strided, dense_result);
            return strided;
        };
        return std::tuple(needs & 1 ? dx : none_like(x), result(1, weight, dweight),
                          result(2, bias, dbias), result(3, initial_states, dstates));
    });
}
