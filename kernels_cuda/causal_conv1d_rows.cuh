// causal_conv1d where the time is contiguous, for widths of 2 to 4.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

constexpr int kRowThreads = 128, kRowPacks = 4, kRowAhead = 2, kBefore = 4;

// How the rows lie on threads: groups of `lanes` neighbours go along a row.
struct RowGrid {
    int lanes;              // a power of two, up to kRowThreads (forward) or 32 (backward)
    int64_t parts, stride;  // pieces of a row, and their length in elements
    bool packed;            // every pack of every row is aligned
};

// The inputs that a pack at t sees, v[W - 1 + j] that of token t + j.
template <int W, int N, class T>
__device__ inline void make_window(const Causal& p, const Words<T, N>& x,
                                   const Words<T, kBefore>& before, int64_t b, int64_t d, int t,
                                   float (&v)[W - 1 + N]) {
    float now[N], past[kBefore];
    unpack(x, now);
    unpack(before, past);
#pragma unroll
    for (int j = 0; j < N; ++j) v[W - 1 + j] = now[j];
#pragma unroll
    for (int j = 0; j < W - 1; ++j) v[j] = past[kBefore - (W - 1) + j];
    if (p.states && t == 0 && d < p.channels) {  // a group past the last channel has none
#pragma unroll
        for (int j = 0; j < W - 1; ++j) v[j] = p.states.load<float>(b, d, j);
    }
}

// What tokens t, t + 1, … see, a byte each; those past the end nothing.
template <bool general, int N>
__device__ inline Words<uint8_t, N> load_taps(const Causal& p, int64_t b, int t, bool packed) {
    if (general && p.taps != nullptr) {
        return load_some<general, N>(p.taps + b * p.length + t, static_cast<int>(p.length) - t,
                                     packed);
    }
    Words<uint8_t, N> all;
#pragma unroll
    for (int i = 0; i < Words<uint8_t, N>::count; ++i) all.words[i] = ~0u;
    return all;
}

// v if token j of the taps sees the one `lag` before it.
template <bool general, int N>
__device__ inline float keep(const Words<uint8_t, N>& taps, int j, int lag, float v) {
    return keep<general>(taps.words[j / 4], j % 4 * 8 + lag, v);
}

template <bool general, int W, int N>
__device__ inline float convolve(const float (&v)[W - 1 + N], const float (&filter)[W][1],
                                 float bias, const Words<uint8_t, N>& taps, int j) {
    float sum = bias;
#pragma unroll
    for (int lag = W - 1; lag >= 0; --lag) {
        const float tap = keep<general>(taps, j, lag, v[W - 1 + j - lag]);
        sum = fmaf(filter[W - 1 - lag][0], tap, sum);
    }
    return sum;
}

template <class T, int W, bool general>
__global__ void __launch_bounds__(kRowThreads)
    causal_rows_forward(View<const T> x, View<T> y, Causal p, RowGrid g) {
    constexpr int N = kPack<T>, K = kRowPacks;
    const unsigned lane = threadIdx.x % g.lanes, groups = kRowThreads / g.lanes;
    const unsigned parts = static_cast<unsigned>(g.parts);
    const unsigned row = blockIdx.x / parts * groups + threadIdx.x / g.lanes;
    const unsigned channels = static_cast<unsigned>(p.channels);
    const unsigned b = row / channels, d = row % channels;
    if (b >= p.batch) return;
    const T* in = x.row(b, d);
    T* out = y.row(b, d);
    const int length = static_cast<int>(p.length), step = g.lanes * N;
    const int start = static_cast<int>(blockIdx.x % parts * g.stride) + lane * N;
    Words<T, N> raw[K];
    Words<T, kBefore> before[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int t = start + k * step;
        raw[k] = load_some<general, N>(in + t, length - t, g.packed);
        before[k] = load_some<general, kBefore>(in + t - kBefore, 0 < t && t < length ? kBefore : 0,
                                                g.packed);
    }
    float filter[W][1], bias[1];
    load_filters<W, 1>(p, d, 1, filter, bias);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int t = start + k * step;
        if (t >= length) return;
        float v[W - 1 + N], result[N];
        make_window<W, N>(p, raw[k], before[k], b, d, t, v);
        const auto taps = load_taps<general, N>(p, b, t, g.packed);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float sum = convolve<general, W, N>(v, filter, bias[0], taps, j);
            result[j] = keep<general>(taps, j, 0, p.silu ? silu(sum) : sum);
        }
        store_some<general>(out + t, result, length - t, g.packed);
    }
}

// g: the gradient at the sums, before the activation, of tokens that see `v`.
template <bool general, int W, int N, class T>
__device__ inline void sum_gradients(const Causal& p, const float (&v)[W - 1 + N],
                                     const Words<T, N>& dy, const Words<uint8_t, N>& taps,
                                     const float (&filter)[W][1], float bias, int count,
                                     float (&g)[N]) {
    unpack(dy, g);
#pragma unroll
    for (int j = 0; j < N; ++j) {
        if (p.silu) g[j] *= silu_slope(convolve<general, W, N>(v, filter, bias, taps, j));
        if (general && j >= count) g[j] = 0.f;
        g[j] = keep<general>(taps, j, 0, g[j]);
    }
}

// A group of lanes walks along its piece of a row from right to left: what a token needs of the
// gradients to its right is its neighbour's, or of the step before.
template <class T, int W, bool general>
__global__ void __launch_bounds__(kRowThreads)
    causal_rows_backward(CausalBackward<T> io, Causal p, RowGrid grid) {
    constexpr int N = kPack<T>, H = W - 1;
    const int lanes = grid.lanes, lane = threadIdx.x % lanes;
    const unsigned groups = 32 / lanes, warp = blockIdx.x * (kRowThreads / 32) + threadIdx.x / 32;
    const unsigned columns = (static_cast<unsigned>(p.channels) + groups - 1) / groups;
    const int64_t part = warp / columns;
    const unsigned d = warp % columns * groups + threadIdx.x % 32 / lanes;
    if (part >= grid.parts) return;  // a whole warp
    const bool active = d < p.channels;
    float filter[W][1] = {}, bias[1] = {};
    if (active) load_filters<W, 1>(p, d, 1, filter, bias);
    float dweight[W] = {}, dbias = 0.f;

    const int length = static_cast<int>(p.length), stride = static_cast<int>(grid.stride);
    const int pieces = (length + stride - 1) / stride, step = lanes * N;
    for (int64_t item = part; item < p.batch * pieces; item += grid.parts) {
        const int64_t b = item / pieces;
        const int begin = static_cast<int>(item % pieces) * stride,
                  end = min(begin + stride, length);
        const T *in = io.x.row(b, d), *grad = io.dy.row(b, d);
        Words<T, N> x[kRowAhead], dy[kRowAhead];  // in flight
        Words<T, kBefore> before[kRowAhead];
        const auto fetch = [&](int slot, int t) {
            const int count = active && t >= begin ? length - t : 0;
            x[slot] = load_some<general, N>(in + t, count, grid.packed);
            dy[slot] = load_some<general, N>(grad + t, count, grid.packed);
            before[slot] = load_some<general, kBefore>(
                in + t - kBefore, count > 0 && t > 0 ? kBefore : 0, grid.packed);
        };
        int t = begin + (end - begin - 1) / step * step + lane * N;
#pragma unroll
        for (int u = 0; u < kRowAhead; ++u) fetch(u, t - u * step);
        float right[H] = {};  // the gradients right of the piece, then of the last step
        if (active && end < length) {
            const int count = length - end;
            const auto past = load_some<general, kBefore>(in + end, count, grid.packed);
            const auto past_before =
                load_some<general, kBefore>(in + end - kBefore, kBefore, grid.packed);
            const auto past_dy = load_some<general, kBefore>(grad + end, count, grid.packed);
            float v[H + kBefore], g[kBefore];
            make_window<W, kBefore>(p, past, past_before, b, d, end, v);
            const auto taps = load_taps<general, kBefore>(p, b, end, grid.packed);
            sum_gradients<general, W, kBefore>(p, v, past_dy, taps, filter, bias[0], count, g);
#pragma unroll
            for (int j = 0; j < H; ++j) right[j] = g[j];
        }
        const auto walk = [&](int slot) {
            float v[H + N], g[N + H];
            make_window<W, N>(p, x[slot], before[slot], b, d, t, v);
            const auto taps = load_taps<general, N>(p, b, t, grid.packed);
            const auto after = load_taps<general, kBefore>(p, b, t + N, grid.packed);
            float own[N];
            sum_gradients<general, W, N>(p, v, dy[slot], taps, filter, bias[0], length - t, own);
            fetch(slot, t - kRowAhead * step);
#pragma unroll
            for (int j = 0; j < N; ++j) g[j] = own[j];
#pragma unroll
            for (int j = 0; j < H; ++j) {
                const float shared = lane == 0 ? right[j] : g[j];
                g[N + j] = __shfl_sync(0xffffffffu, shared, (lane + 1) % lanes, lanes);
                right[j] = g[j];
            }
            if (!active || t >= length) return;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                dbias += g[j];
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    const float tap = keep<general>(taps, j, lag, v[H + j - lag]);
                    dweight[H - lag] = fmaf(g[j], tap, dweight[H - lag]);
                }
            }
            if (io.dx.data == nullptr) return;
            float result[N];
#pragma unroll
            for (int j = 0; j < N; ++j) {
                result[j] = 0.f;
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    const float from = j + lag < N
                                           ? keep<general>(taps, j + lag, lag, g[j + lag])
                                           : keep<general>(after, j + lag - N, lag, g[j + lag]);
                    result[j] = fmaf(filter[H - lag][0], from, result[j]);
                }
            }
            store_some<general>(io.dx.row(b, d) + t, result, length - t, grid.packed);
        };
        while (t - lane * N >= begin) {
#pragma unroll
            for (int u = 0; u < kRowAhead; ++u, t -= step) {
                if (t - lane * N >= begin) walk(u);
            }
        }
    }
    if (io.partial == nullptr) return;
    const auto reduce = [&](float sum, int k) {
        for (int offset = lanes / 2; offset > 0; offset /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        }
        if (active && lane == 0) io.partial[(part * (W + 1) + k) * p.channels + d] = sum;
    };
#pragma unroll
    for (int k = 0; k < W; ++k) reduce(dweight[k], k);
    reduce(dbias, W);
}

}  // namespace fusewright::cuda
