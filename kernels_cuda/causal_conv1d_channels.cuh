// causal_conv1d where the channels are contiguous (channel-last), for widths of 2 to 4: a thread
// has a few channels and walks along the time.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

constexpr int kChannelThreads = 128, kChannels = 4;

// `lanes` threads stand side by side on channels; the groups of a block have pieces of their own.
struct ChannelGrid {
    int lanes;              // a power of two, up to kChannelThreads
    unsigned tiles;         // of lanes * kChannels channels
    int64_t parts, length;  // groups on a tile, and the length of the pieces of time they take
    bool packed;

    __device__ int64_t part() const {
        return static_cast<int64_t>(blockIdx.x / tiles) * (kChannelThreads / lanes) +
               threadIdx.x / lanes;
    }
    __device__ int64_t channel() const {
        return (static_cast<int64_t>(blockIdx.x % tiles) * lanes + threadIdx.x % lanes) * kChannels;
    }
};

template <class T>
using Channels = Pack<T, kChannels>;

// v = the inputs at t < 0 are the states, or 0.
template <bool general, class T>
__device__ inline void input_at(const Causal& p, const View<const T>& x, int64_t b, int64_t d,
                                int64_t t, int64_t count, bool packed, float (&v)[kChannels]) {
    if (t >= 0) {
        const auto pack = load_some<general, kChannels>(&x.at(b, d, t), count, packed);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) v[c] = to_acc(pack[c]);
        return;
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
        v[c] = c < count ? p.states.load<float>(b, d + c, t + p.width - 1) : 0.f;
    }
}

template <bool general, int W>
__device__ inline void convolve(const float (&v)[W][kChannels], const float (&filter)[W][kChannels],
                                const float (&bias)[kChannels], unsigned taps,
                                float (&sum)[kChannels]) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
        sum[c] = bias[c];
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum[c] = fmaf(filter[k][c], keep<general>(taps, W - 1 - k, v[k][c]), sum[c]);
        }
    }
}

template <int W>
__device__ inline void shift(float (&v)[W][kChannels]) {
#pragma unroll
    for (int k = 0; k + 1 < W; ++k) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) v[k][c] = v[k + 1][c];
    }
}

template <class T, int W, bool general>
__global__ void __launch_bounds__(kChannelThreads)
    causal_channels_forward(View<const T> x, View<T> y, Causal p, ChannelGrid g) {
    constexpr int U = 4, C = kChannels;
    const int64_t d = g.channel(), part = g.part(), count = p.channels - d;
    const int64_t pieces = (p.length + g.length - 1) / g.length, b = part / pieces;
    if (part >= g.parts || count <= 0) return;
    const int64_t begin = part % pieces * g.length;
    const int64_t end = begin + g.length < p.length ? begin + g.length : p.length;
    const T* in = x.row(b, d);
    T* out = y.row(b, d);
    Channels<T> next[U], now[U];
    const auto fetch = [&](int64_t t) {
#pragma unroll
        for (int u = 0; u < U; ++u) {
            next[u] = load_some<general, C>(in + (t + u) * x.t, t + u < end ? count : 0, g.packed);
        }
    };
    fetch(begin);
    float filter[W][C], bias[C], v[W][C];
#pragma unroll
    for (int k = 0; k + 1 < W; ++k) {
        input_at<general>(p, x, b, d, begin + k - (W - 1), count, g.packed, v[k]);
    }
    load_filters<W, C>(p, d, count, filter, bias);
    for (int64_t t0 = begin; t0 < end; t0 += U) {
#pragma unroll
        for (int u = 0; u < U; ++u) now[u] = next[u];
        fetch(t0 + U);
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const int64_t t = t0 + u;
            if (t >= end) break;
#pragma unroll
            for (int c = 0; c < C; ++c) v[W - 1][c] = to_acc(now[u][c]);
            const unsigned taps = p.tap<general>(b, t);
            float sum[C];
            convolve<general, W>(v, filter, bias, taps, sum);
            Channels<T> result;
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (p.silu) sum[c] = silu(sum[c]);
                result[c] = from_acc<T>(keep<general>(taps, 0, sum[c]));
            }
            store_some<general>(out + t * y.t, result, count, g.packed);
            shift<W>(v);
        }
    }
}

// The step at t makes the gradient at the sum of token t, and that of the input W - 1 before it,
// which no later token sees. So a piece goes on for W - 1 tokens after its end.
template <class T, int W, bool general>
__global__ void __launch_bounds__(kChannelThreads)
    causal_channels_backward(CausalBackward<T> io, Causal p, ChannelGrid grid) {
    constexpr int U = 4, C = kChannels, H = W - 1;
    const int64_t d = grid.channel(), part = grid.part(), count = p.channels - d;
    if (part >= grid.parts || count <= 0) return;
    float filter[W][C], bias[C], dweight[W][C] = {}, dbias[C] = {};
    load_filters<W, C>(p, d, count, filter, bias);
    const int64_t pieces = (p.length + grid.length - 1) / grid.length;
    for (int64_t item = part; item < p.batch * pieces; item += grid.parts) {
        const int64_t b = item / pieces, begin = item % pieces * grid.length;
        const int64_t end = begin + grid.length < p.length ? begin + grid.length : p.length;
        const int64_t read_end = end + H < p.length ? end + H : p.length;
        const int64_t first = begin == 0 ? -H : begin;  // the first input that gets a gradient
        const T *in = io.x.row(b, d), *grad = io.dy.row(b, d);
        Channels<T> next_x[U], next_dy[U], x[U], dy[U];
        const auto fetch = [&](int64_t t) {
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int64_t n = t + u < read_end ? count : 0;
                next_x[u] = load_some<general, C>(in + (t + u) * io.x.t, n, grid.packed);
                next_dy[u] = load_some<general, C>(grad + (t + u) * io.dy.t, n, grid.packed);
            }
        };
        fetch(begin);
        float v[W][C], g[W][C] = {};
        unsigned seen[W] = {};  // the bits of the tokens whose gradients stand in g
#pragma unroll
        for (int k = 0; k < H; ++k) {
            input_at<general>(p, io.x, b, d, begin + k - H, count, grid.packed, v[k]);
        }
        for (int64_t t0 = begin; t0 < end + H; t0 += U) {
#pragma unroll
            for (int u = 0; u < U; ++u) x[u] = next_x[u], dy[u] = next_dy[u];
            fetch(t0 + U);
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int64_t t = t0 + u;
                if (t >= end + H) break;
                if (t < p.length) {
                    seen[H] = p.tap<general>(b, t);
#pragma unroll
                    for (int c = 0; c < C; ++c) {
                        v[H][c] = to_acc(x[u][c]);
                        g[H][c] = to_acc(dy[u][c]);
                    }
                    if (p.silu) {
                        float sum[C];
                        convolve<general, W>(v, filter, bias, seen[H], sum);
#pragma unroll
                        for (int c = 0; c < C; ++c) g[H][c] *= silu_slope(sum[c]);
                    }
#pragma unroll
                    for (int c = 0; c < C; ++c) g[H][c] = keep<general>(seen[H], 0, g[H][c]);
                    if (t < end) {
#pragma unroll
                        for (int c = 0; c < C; ++c) {
                            dbias[c] += g[H][c];
#pragma unroll
                            for (int k = 0; k < W; ++k) {
                                const float tap = keep<general>(seen[H], H - k, v[k][c]);
                                dweight[k][c] = fmaf(g[H][c], tap, dweight[k][c]);
                            }
                        }
                    }
                } else {
#pragma unroll
                    for (int c = 0; c < C; ++c) g[H][c] = 0.f;
                }
                const int64_t to = t - H;
                if (to >= first) {
                    float sum[C];
#pragma unroll
                    for (int c = 0; c < C; ++c) {
                        sum[c] = 0.f;
#pragma unroll
                        for (int lag = 0; lag < W; ++lag) {
                            const float from = keep<general>(seen[lag], lag, g[lag][c]);
                            sum[c] = fmaf(filter[H - lag][c], from, sum[c]);
                        }
                    }
                    const int64_t i = to - (p.length - H);  // its place in the final states
                    if (io.dfinal && i >= 0) {
                        const int64_t lag = H - 1 - i;
                        if (p.tap<general>(b, p.length - 1) >> lag & 1) {
#pragma unroll
                            for (int c = 0; c < C; ++c) {
                                if (c < count)
                                    sum[c] += io.dfinal.template load<float>(b, d + c, i);
                            }
                        }
                    }
                    if (to >= 0 && io.dx.data != nullptr) {
                        Channels<T> result;
#pragma unroll
                        for (int c = 0; c < C; ++c) result[c] = from_acc<T>(sum[c]);
                        store_some<general>(&io.dx.at(b, d, to), result, count, grid.packed);
                    } else if (to < 0) {
#pragma unroll
                        for (int c = 0; c < C; ++c) {
                            if (c < count) io.dinitial.store(b, d + c, to + H, sum[c]);
                        }
                    }
                }
                shift<W>(v);
                shift<W>(g);
#pragma unroll
                for (int k = 0; k < H; ++k) seen[k] = seen[k + 1];
            }
        }
    }
    if (io.partial == nullptr) return;
    const auto write = [&](const float (&sum)[C], int k) {
        float* to = io.partial + (part * (W + 1) + k) * p.channels + d;
#pragma unroll
        for (int c = 0; c < C; ++c) {
            if (c < count) to[c] = sum[c];
        }
    };
#pragma unroll
    for (int k = 0; k < W; ++k) write(dweight[k], k);
    write(dbias, W);
}

}  // namespace fusewright::cuda
