// causal_conv1d where the channels are contiguous (channel-last), for widths of 2 to 4: a thread
// has a few channels and walks along the time.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

constexpr int kChannelThreads = 128, kForwardAhead = 4, kBackwardAhead = 4;
constexpr int kForwardChannels = 4;
template <class T>
constexpr int kBackwardChannels = 8 / sizeof(T);  // more would not fit in registers
template <class T, Form form>
constexpr int kBackwardBlocks = form != Form::whole ? 2
                                : sizeof(T) == 4    ? 5
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
template <Form form, int C, class T>
__device__ inline void input_at(const Causal& p, const View<const T>& x, int64_t b, int64_t d,
                                int t, int count, bool packed, float (&v)[C]) {
    if (t >= 0) return unpack(load_some<form, C>(&x.at(b, d, t), 0, count, packed), v);
#pragma unroll
    for (int c = 0; c < C; ++c) {
        v[c] = c < count ? p.states.load<float>(b, d + c, t + p.width - 1) : 0.f;
    }
}

// The sums at the last of W inputs v.
template <bool masked, int W, int C>
__device__ inline void convolve(const float (*v)[C], const float (&filter)[W][C],
                                const float (&bias)[C], unsigned taps, float (&sum)[C]) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
        sum[c] = bias[c];
#pragma unroll
        for (int k = 0; k < W; ++k) {
            sum[c] = fmaf(filter[k][c], keep<masked>(taps, W - 1 - k, v[k][c]), sum[c]);
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

// Whether all of n tokens see all before them.
template <Form form, int W, int n>
__device__ inline bool all_seen(const unsigned (&taps)[n]) {
    if constexpr (form == Form::whole) return true;
    constexpr unsigned full = (1u << W) - 1;
    unsigned both = full;
#pragma unroll
    for (int i = 0; i < n; ++i) both &= taps[i];
    return both == full;
}

template <class T, int W, Form form>
__global__ void __launch_bounds__(kChannelThreads, form == Form::whole ? 5 : 4)
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
    unsigned taps[kForwardAhead];
    const auto fetch = [&](int slot, int t) {
        ahead[slot] = load_some<form, C>(from, 0, t < piece.end ? count : 0, g.packed);
        taps[slot] = t < piece.end ? p.tap<form>(b, t) : ~0u;
        from += x.t;
    };
#pragma unroll
    for (int u = 0; u < kForwardAhead; ++u) fetch(u, piece.begin + u);
    float filter[W][C], bias[C], v[H + kForwardAhead][C];
#pragma unroll
    for (int k = 0; k < H; ++k) {
        input_at<form>(p, x, b, d, piece.begin + k - H, count, g.packed, v[k]);
    }
    load_filters<W, C>(p, d, count, filter, bias);
    const auto steps = [&](int t0, auto whole, auto masked) {
        constexpr bool kMasked = form != Form::whole && masked.value;
#pragma unroll
        for (int u = 0; u < kForwardAhead; ++u) {
            const int t = t0 + u;
            if (!whole && t >= piece.end) break;
            unpack(ahead[u], v[H + u]);
            const unsigned seen = taps[u];
            fetch(u, t + kForwardAhead);
            float result[C];
            convolve<kMasked>(v + u, filter, bias, seen, result);
            if (p.silu) {
#pragma unroll
                for (int c = 0; c < C; ++c) result[c] = silu(result[c]);
            }
#pragma unroll
            for (int c = 0; c < C; ++c) result[c] = keep<kMasked>(seen, 0, result[c]);
            store_some<form>(to, result, 0, count, g.packed);
            to += y.t;
        }
        rewind<H>(v);
    };
    int t = piece.begin;
    for (; t + kForwardAhead <= piece.end; t += kForwardAhead) {
        if (all_seen<form, W>(taps)) {
            steps(t, std::true_type{}, std::false_type{});
        } else {
            steps(t, std::true_type{}, std::true_type{});
        }
    }
    steps(t, std::false_type{}, std::true_type{});
}

// The step at t makes the gradient at the sum of token t, and that of the input W - 1 before it,
// which no later token sees. So a piece goes on for W - 1 tokens after its end.
template <class T, int W, Form form>
__global__ void __launch_bounds__(kChannelThreads, kBackwardBlocks<T, form>)
    causal_channels_backward(CausalBackward<T> io, Causal p, ChannelGrid grid) {
    constexpr int C = kBackwardChannels<T>, H = W - 1;
    const int64_t d = grid.pack() * C, part = grid.part();
    const int count = static_cast<int>(min(p.channels - d, int64_t{C}));  // may be negative
    const int length = static_cast<int>(p.length);
    float filter[W][C] = {}, bias[C] = {}, dweight[W][C] = {}, dbias[C] = {};
    if (count > 0) load_filters<W, C>(p, d, count, filter, bias);
    const float scale = p.silu ? -kLog2E : 1.f;
#pragma unroll
    for (int c = 0; c < C; ++c) {
        bias[c] *= scale;
#pragma unroll
        for (int k = 0; k < W; ++k) filter[k][c] *= scale;
    }
    const int64_t items = count > 0 && part < grid.parts ? p.batch * grid.pieces : 0;
    for (int64_t item = part; item < items; item += grid.parts) {
        const Piece piece(p, grid, item);
        const int64_t b = piece.b;
        const int begin = piece.begin, end = piece.end, read_end = min(end + H, length);
        const T* x_from = io.x.row(b, d) + begin * io.x.t;
        const T* dy_from = io.dy.row(b, d) + begin * io.dy.t;
        T* to = io.dx.row(b, d) + begin * io.dx.t;
        Words<T, C> x[kBackwardAhead], dy[kBackwardAhead];  // in flight
        unsigned taps[kBackwardAhead];
        const auto fetch = [&](int slot, int t) {
            const int n = t < read_end ? count : 0;
            x[slot] = load_some<form, C>(x_from, 0, n, grid.packed);
            dy[slot] = load_some<form, C>(dy_from, 0, n, grid.packed);
            taps[slot] = t < length ? p.tap<form>(b, t) : 0;
            x_from += io.x.t, dy_from += io.dy.t;
        };
#pragma unroll
        for (int u = 0; u < kBackwardAhead; ++u) fetch(u, begin + u);
        // past the last token g is 0, or NaN where that of the last token is already
        float v[H + kBackwardAhead][C], g[H + kBackwardAhead][C] = {};
        unsigned seen[H + kBackwardAhead] = {};  // the bits of the tokens that g belongs to
#pragma unroll
        for (int k = 0; k < H; ++k) {
            input_at<form>(p, io.x, b, d, begin + k - H, count, grid.packed, v[k]);
        }
        const auto steps = [&](int t0, auto whole, auto masked) {
            constexpr bool kMasked = form != Form::whole && masked.value;
#pragma unroll
            for (int u = 0; u < kBackwardAhead; ++u) {
                const int t = t0 + u;
                if (!whole && t >= end + H) break;
                const unsigned sees = seen[H + u] = taps[u];
                float (&now)[C] = g[H + u];
                unpack(x[u], v[H + u]);
                unpack(dy[u], now);
                fetch(u, t + kBackwardAhead);
                if (p.silu) {
                    float sum[C];
                    convolve<kMasked>(v + u, filter, bias, sees, sum);
#pragma unroll
                    for (int c = 0; c < C; ++c) now[c] *= scaled_silu_slope(sum[c]);
                }
#pragma unroll
                for (int c = 0; c < C; ++c) now[c] = keep<kMasked>(sees, 0, now[c]);
                if (whole || t < end) {
#pragma unroll
                    for (int c = 0; c < C; ++c) {
                        dbias[c] += now[c];
#pragma unroll
                        for (int k = 0; k < W; ++k) {
                            const float tap = keep<kMasked>(sees, H - k, v[u + k][c]);
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
                            const float from = keep<kMasked>(seen[u + lag], lag, g[u + lag][c]);
                            result[c] = fmaf(filter[H - lag][c], from, result[c]);
                        }
                    }
                    store_some<form>(to, result, 0, count, grid.packed);
                    to += io.dx.t;
                }
            }
            rewind<H>(v);
            rewind<H>(g);
#pragma unroll
            for (int k = 0; k < H; ++k) seen[k] = seen[kBackwardAhead + k];
        };
        for (int t = begin; t < end + H; t += kBackwardAhead) {
            if (t - H < begin || t + kBackwardAhead > end) {
                steps(t, std::false_type{}, std::true_type{});
            } else if (all_seen<form, W>(taps) && all_seen<form, W>(seen)) {
                steps(t, std::true_type{}, std::false_type{});
            } else {
                steps(t, std::true_type{}, std::true_type{});
            }
        }
    }
    if (io.partial == nullptr) return;
    // the sums of a block's groups, in their order
    __shared__ float shared[W + 1][C][kChannelThreads];
#pragma unroll
    for (int c = 0; c < C; ++c) {
#pragma unroll
        for (int k = 0; k < W; ++k) shared[k][c][threadIdx.x] = dweight[k][c];
        shared[W][c][threadIdx.x] = dbias[c];
    }
    __syncthreads();
    if (threadIdx.x >= grid.lanes) return;
    float* to = io.partial + blockIdx.x / grid.tiles * (W + 1) * p.channels + d;
#pragma unroll
    for (int k = 0; k <= W; ++k) {
#pragma unroll
        for (int c = 0; c < C; ++c) {
            float sum = 0.f;
            for (int i = threadIdx.x; i < kChannelThreads; i += grid.lanes) sum += shared[k][c][i];
            if (c < count) to[k * p.channels + c] = scale * sum;
        }
    }
}

}  // namespace fusewright::cuda
