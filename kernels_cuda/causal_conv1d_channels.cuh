// causal_conv1d where the channels are contiguous (channel-last), for widths of 2 to 4: a thread
// has a few channels and walks along the time.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

constexpr int kChannelThreads = 128, kForwardAhead = 4, kBackwardAhead = 4;
constexpr int kForwardChannels = 4;
template <class T>
constexpr int kBackwardChannels = 8 / sizeof(T);  // more would not fit in registers
template <class T, bool general>
constexpr int kBackwardBlocks = general          ? 2
                                : sizeof(T) == 4 ? 5
                                                 : 3;  // on a processor

// `lanes` threads stand side by side on channels; the groups of a block have pieces of their own.
struct ChannelGrid {
    int lanes;               // a power of two, up to kChannelThreads
    unsigned tiles, pieces;  // of the channels that the lanes have; of time, in a batch
    int64_t parts, length;   // groups on a tile; tokens in a piece
    bool packed;

    __device__ int64_t part() const {
        return static_cast<int64_t>(blockIdx.x / tiles) * (kChannelThreads / lanes) +
               threadIdx.x / lanes;
    }
    __device__ int64_t pack() const {
        return static_cast<int64_t>(blockIdx.x % tiles) * lanes + threadIdx.x % lanes;
    }
};

// v = the inputs at t; those at t < 0 are the states, or 0.
template <bool general, int C, class T>
__device__ inline void input_at(const Causal& p, const View<const T>& x, int64_t b, int64_t d,
                                int t, int count, bool packed, float (&v)[C]) {
    if (t >= 0) return unpack(load_some<general, C>(&x.at(b, d, t), count, packed), v);
#pragma unroll
    for (int c = 0; c < C; ++c) {
        v[c] = c < count ? p.states.load<float>(b, d + c, t + p.width - 1) : 0.f;
    }
}

// The sums at the last of W inputs v.
template <bool general, int W, int C>
__device__ inline void convolve(const float (*v)[C], const float (&filter)[W][C],
                                const float (&bias)[C], unsigned taps, float (&sum)[C]) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
        sum[c] = bias[c];
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum[c] = fmaf(filter[k][c], keep<general>(taps, W - 1 - k, v[k][c]), sum[c]);
        }
    }
}

// The last H of H + n become the first.
template <int H, int C, int n>
__device__ inline void rewind(float (&v)[n][C]) {
#pragma unroll
    for (int k = 0; k < H; ++k) {
#pragma unroll
        for (int c = 0; c < C; ++c) v[k][c] = v[n - H + k][c];
    }
}

// A piece of time: [begin, end) of one batch.
struct Piece {
    int64_t b;
    int begin, end;

    __device__ Piece(const Causal& p, const ChannelGrid& g, int64_t i) {
        const unsigned pieces = g.pieces;
        b = i / pieces;
        begin = static_cast<int>(i % pieces * g.length);
        end = min(begin + static_cast<int>(g.length), static_cast<int>(p.length));
    }
};

template <class T, int W, bool general>
__global__ void __launch_bounds__(kChannelThreads, general ? 4 : 5)
    causal_channels_forward(View<const T> x, View<T> y, Causal p, ChannelGrid g) {
    constexpr int C = kForwardChannels, H = W - 1;
    const int64_t d = g.pack() * C, part = g.part();
    if (part >= g.parts || d >= p.channels) return;
    const int count = static_cast<int>(min(p.channels - d, int64_t{C}));
    const Piece piece(p, g, part);
    const int64_t b = piece.b;
    const T* from = x.row(b, d) + piece.begin * x.t;
    T* to = y.row(b, d) + piece.begin * y.t;
    Words<T, C> ahead[kForwardAhead];  // in flight
    const auto fetch = [&](int slot, int t) {
        ahead[slot] = load_some<general, C>(from, t < piece.end ? count : 0, g.packed);
        from += x.t;
    };
#pragma unroll
    for (int u = 0; u < kForwardAhead; ++u) fetch(u, piece.begin + u);
    float filter[W][C], bias[C], v[H + kForwardAhead][C];
#pragma unroll
    for (int k = 0; k < H; ++k) {
        input_at<general>(p, x, b, d, piece.begin + k - H, count, g.packed, v[k]);
    }
    load_filters<W, C>(p, d, count, filter, bias);
    const auto steps = [&](int t0, auto whole) {
#pragma unroll
        for (int u = 0; u < kForwardAhead; ++u) {
            const int t = t0 + u;
            if (!whole && t >= piece.end) break;
            unpack(ahead[u], v[H + u]);
            fetch(u, t + kForwardAhead);
            const unsigned taps = p.tap<general>(b, t);
            float result[C];
            convolve<general>(v + u, filter, bias, taps, result);
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (p.silu) result[c] = silu(result[c]);
                result[c] = keep<general>(taps, 0, result[c]);
            }
            store_some<general>(to, result, count, g.packed);
            to += y.t;
        }
        rewind<H>(v);
    };
    int t = piece.begin;
    for (; t + kForwardAhead <= piece.end; t += kForwardAhead) steps(t, std::true_type{});
    steps(t, std::false_type{});
}

// The step at t makes the gradient at the sum of token t, and that of the input W - 1 before it,
// which no later token sees. So a piece goes on for W - 1 tokens after its end.
template <class T, int W, bool general>
__global__ void __launch_bounds__(kChannelThreads, kBackwardBlocks<T, general>)
    causal_channels_backward(CausalBackward<T> io, Causal p, ChannelGrid grid) {
    constexpr int C = kBackwardChannels<T>, H = W - 1;
    const int64_t d = grid.pack() * C, part = grid.part();
    if (part >= grid.parts || d >= p.channels) return;
    const int count = static_cast<int>(min(p.channels - d, int64_t{C}));
    const int length = static_cast<int>(p.length);
    float filter[W][C], bias[C], dweight[W][C] = {}, dbias[C] = {};
    load_filters<W, C>(p, d, count, filter, bias);
    for (int64_t item = part; item < p.batch * grid.pieces; item += grid.parts) {
        const Piece piece(p, grid, item);
        const int64_t b = piece.b;
        const int begin = piece.begin, end = piece.end, read_end = min(end + H, length);
        const T* x_from = io.x.row(b, d) + begin * io.x.t;
        const T* dy_from = io.dy.row(b, d) + begin * io.dy.t;
        T* to = io.dx.row(b, d) + begin * io.dx.t;
        Words<T, C> x[kBackwardAhead], dy[kBackwardAhead];  // in flight
        const auto fetch = [&](int slot, int t) {
            const int n = t < read_end ? count : 0;
            x[slot] = load_some<general, C>(x_from, n, grid.packed);
            dy[slot] = load_some<general, C>(dy_from, n, grid.packed);
            x_from += io.x.t, dy_from += io.dy.t;
        };
#pragma unroll
        for (int u = 0; u < kBackwardAhead; ++u) fetch(u, begin + u);
        // past the last token g is 0, or NaN where that of the last token is already
        float v[H + kBackwardAhead][C], g[H + kBackwardAhead][C] = {};
        unsigned seen[H + kBackwardAhead] = {};  // the bits of the tokens that g belongs to
#pragma unroll
        for (int k = 0; k < H; ++k) {
            input_at<general>(p, io.x, b, d, begin + k - H, count, grid.packed, v[k]);
        }
        const auto steps = [&](int t0, auto whole) {
#pragma unroll
            for (int u = 0; u < kBackwardAhead; ++u) {
                const int t = t0 + u;
                if (!whole && t >= end + H) break;
                const unsigned taps = whole || t < length ? p.tap<general>(b, t) : 0;
                seen[H + u] = taps;
                float (&now)[C] = g[H + u];
                unpack(x[u], v[H + u]);
                unpack(dy[u], now);
                fetch(u, t + kBackwardAhead);
                if (p.silu) {
                    float sum[C];
                    convolve<general>(v + u, filter, bias, taps, sum);
#pragma unroll
                    for (int c = 0; c < C; ++c) now[c] *= silu_slope(sum[c]);
                }
#pragma unroll
                for (int c = 0; c < C; ++c) now[c] = keep<general>(taps, 0, now[c]);
                if (whole || t < end) {
#pragma unroll
                    for (int c = 0; c < C; ++c) {
                        dbias[c] += now[c];
#pragma unroll
                        for (int k = 0; k < W; ++k) {
                            const float tap = keep<general>(taps, H - k, v[u + k][c]);
                            dweight[k][c] = fmaf(now[c], tap, dweight[k][c]);
                        }
                    }
                }
                if ((whole || t - H >= begin) && io.dx.data != nullptr) {
                    float result[C] = {};
#pragma unroll
                    for (int c = 0; c < C; ++c) {
#pragma unroll
                        for (int lag = 0; lag < W; ++lag) {
                            const float from = keep<general>(seen[u + lag], lag, g[u + lag][c]);
                            result[c] = fmaf(filter[H - lag][c], from, result[c]);
                        }
                    }
                    store_some<general>(to, result, count, grid.packed);
                    to += io.dx.t;
                }
            }
            rewind<H>(v);
            rewind<H>(g);
#pragma unroll
            for (int k = 0; k < H; ++k) seen[k] = seen[kBackwardAhead + k];
        };
        for (int t = begin; t < end + H; t += kBackwardAhead) {
            if (t - H >= begin && t + kBackwardAhead <= end) {
                steps(t, std::true_type{});
            } else {
                steps(t, std::false_type{});
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
