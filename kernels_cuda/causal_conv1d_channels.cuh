// causal_conv1d where the channels are contiguous (channel-last), for widths of 2 to 4: a thread
// has a few channels and walks along the time.
#pragma once

#include "causal_conv1d.cuh"
#include "early.cuh"

namespace fusewright::cuda {

constexpr int kChannelThreads = 128, kTokens = 4;  // at once
template <class T>
constexpr int kChannels = 8 / sizeof(T);  // of a thread; more would not fit in registers
template <Form form>
constexpr int kBackwardBlocks = form == Form::whole ? 4 : 3;  // on a processor

// `lanes` threads stand side by side on channels; the groups of a block have pieces of their own.
struct ChannelGrid {
    int lanes;               // a power of two, up to kChannelThreads
    unsigned tiles, pieces;  // of the channels that the lanes have; of time, in a batch
    int64_t parts, length;   // groups on a tile; tokens in a piece
    bool packed;

    __device__ int64_t part() const {
        const int log_lanes = 31 - __clz(lanes);
        return (static_cast<int64_t>(blockIdx.x / tiles) * kChannelThreads + threadIdx.x) >>
               log_lanes;
    }
    __device__ int64_t pack() const {
        return static_cast<int64_t>(blockIdx.x % tiles) * lanes + (threadIdx.x & (lanes - 1));
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

// Tokens of some tensors on their way into shared memory, where a thread finds again what it asked
// for itself: one stage of them is worked on while the others are on their way. Packs that are not
// aligned or whole are waited for at once.
template <class T, Form form, int streams_, int stages_>
struct TokenRing {
    static constexpr int streams = streams_, stages = stages_, C = kChannels<T>;
    using Slots = Words<T, C>[stages][kTokens][streams][kChannelThreads];
    Slots& slots;
    bool packed;

    __device__ void fetch(int stage, int u, int stream, const T* from, int count) const {
        Words<T, C>& to = slots[stage][u][stream][threadIdx.x];
        if constexpr (form == Form::any) {
            to = load_some<form, C>(from, 0, count, packed);
        } else {
            copy_start(to, from, count > 0);
        }
    }
    __device__ void get(int stage, int u, int stream, float (&v)[C]) const {
        unpack(slots[stage][u][stream][threadIdx.x], v);
    }
    __device__ static int before(int stage) { return stage == 0 ? stages - 1 : stage - 1; }
    __device__ static int after(int stage) { return stage + 1 == stages ? 0 : stage + 1; }
};

// What tokens t, t + 1, … see; those past the end nothing.
template <Form form>
__device__ inline void load_token_taps(const Causal& p, int64_t b, int t,
                                       unsigned (&taps)[kTokens]) {
#pragma unroll
    for (int u = 0; u < kTokens; ++u) {
        taps[u] = form == Form::whole || t + u < p.length ? p.tap<form>(b, t + u) : 0;
    }
}

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
__global__ void __launch_bounds__(kChannelThreads, 5)
    causal_channels_forward(View<const T> x, View<T> y, Causal p, ChannelGrid g) {
    constexpr int C = kChannels<T>, H = W - 1, U = kTokens;
    using Ring = TokenRing<T, form, 1, 3>;
    __shared__ typename Ring::Slots slots;
    const Ring ring{slots, g.packed};
    const int64_t d = g.pack() * C, part = g.part();
    if (part >= g.parts || d >= p.channels) return;
    const int count = static_cast<int>(min(p.channels - d, int64_t{C}));
    const Piece piece(p, g, part);
    const int64_t b = piece.b;
    const T* from = x.row(b, d) + piece.begin * x.t;
    T* to = y.row(b, d) + piece.begin * y.t;
    int ahead = piece.begin;
    const auto fetch = [&](int stage) {
#pragma unroll
        for (int u = 0; u < U; ++u, ++ahead) {
            ring.fetch(stage, u, 0, from, ahead < piece.end ? count : 0);
            if (ahead < piece.end) from += x.t;
        }
        copies_end();
    };
#pragma unroll
    for (int stage = 0; stage < Ring::stages - 1; ++stage) fetch(stage);
    float filter[W][C], bias[C], v[H + U][C];
#pragma unroll
    for (int k = 0; k < H; ++k) {
        input_at<form>(p, x, b, d, piece.begin + k - H, count, g.packed, v[k]);
    }
    load_filters<W, C>(p, d, count, filter, bias);
    unsigned taps[U], next[U];
    load_token_taps<form>(p, b, piece.begin, next);
    for (int t0 = piece.begin, stage = 0; t0 < piece.end; t0 += U, stage = Ring::after(stage)) {
        fetch(Ring::before(stage));
        copies_wait<Ring::stages - 1>();
#pragma unroll
        for (int u = 0; u < U; ++u) taps[u] = next[u];
        load_token_taps<form>(p, b, t0 + U, next);
        const auto steps = [&](auto whole, auto masked) {
            constexpr bool kMasked = masked.value;
#pragma unroll
            for (int u = 0; u < U; ++u) {
                if (!whole && t0 + u >= piece.end) break;
                ring.get(stage, u, 0, v[H + u]);
                float result[C];
                convolve<kMasked>(v + u, filter, bias, taps[u], result);
                if (p.silu) {
#pragma unroll
                    for (int c = 0; c < C; ++c) result[c] = silu(result[c]);
                }
#pragma unroll
                for (int c = 0; c < C; ++c) result[c] = keep<kMasked>(taps[u], 0, result[c]);
                store_some<form>(to, result, 0, count, g.packed);
                to += y.t;
            }
            rewind<H>(v);
        };
        if (t0 + U > piece.end) {
            steps(std::false_type{}, std::true_type{});
        } else if (all_seen<form, W>(taps)) {
            steps(std::true_type{}, std::false_type{});
        } else {
            steps(std::true_type{}, std::true_type{});
        }
    }
}

// The step at t makes the gradient at the sum of token t, and that of the input W - 1 before it,
// which no later token sees. So a piece goes on for W - 1 tokens after its end.
template <class T, int W, Form form>
__global__ void __launch_bounds__(kChannelThreads, kBackwardBlocks<form>)
    causal_channels_backward(CausalBackward<T> io, Causal p, ChannelGrid grid) {
    constexpr int C = kChannels<T>, H = W - 1, U = kTokens;
    using Ring = TokenRing<T, form, 2, 2>;
    __shared__ typename Ring::Slots slots;
    const Ring ring{slots, grid.packed};
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
        int ahead = begin;
        const auto fetch = [&](int stage) {
#pragma unroll
            for (int u = 0; u < U; ++u, ++ahead) {
                const int n = ahead < read_end ? count : 0;
                ring.fetch(stage, u, 0, x_from, n);
                ring.fetch(stage, u, 1, dy_from, n);
                if (ahead < read_end) x_from += io.x.t, dy_from += io.dy.t;
            }
            copies_end();
        };
#pragma unroll
        for (int stage = 0; stage < Ring::stages - 1; ++stage) fetch(stage);
        // past the last token g is 0, or NaN where that of the last token is already
        float v[H + U][C], g[H + U][C] = {};
        unsigned seen[H + U] = {}, next[U];  // the bits of the tokens that g belongs to
        load_token_taps<form>(p, b, begin, next);
#pragma unroll
        for (int k = 0; k < H; ++k) {
            input_at<form>(p, io.x, b, d, begin + k - H, count, grid.packed, v[k]);
        }
        int stage = 0;
        const auto steps = [&](int t0, auto whole, auto masked) {
            constexpr bool kMasked = form != Form::whole && masked.value;
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const int t = t0 + u;
                if (!whole && t >= end + H) break;
                const unsigned sees = seen[H + u];
                float (&now)[C] = g[H + u];
                ring.get(stage, u, 0, v[H + u]);
                ring.get(stage, u, 1, now);
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
            for (int k = 0; k < H; ++k) seen[k] = seen[U + k];
        };
        for (int t = begin; t < end + H; t += U, stage = Ring::after(stage)) {
            fetch(Ring::before(stage));
            copies_wait<Ring::stages - 1>();
#pragma unroll
            for (int u = 0; u < U; ++u) seen[H + u] = next[u];
            load_token_taps<form>(p, b, t + U, next);
            if (t - H < begin || t + U > end) {
                steps(t, std::false_type{}, std::true_type{});
            } else if (all_seen<form, W>(seen)) {
                steps(t, std::true_type{}, std::false_type{});
            } else {
                steps(t, std::true_type{}, std::true_type{});
            }
        }
        copies_wait<0>();  // zeros past the end, which must not come behind the next piece's tokens
    }
    if (io.partial == nullptr) return;
    let_next_begin();
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
