// causal_conv1d where the time is contiguous, for widths of 2 to 4.
#pragma once

#include "causal_conv1d.cuh"
#include "reduce.cuh"

namespace fusewright::cuda {

constexpr int kRowThreads = 128, kRowPacks = 4, kBefore = 4;

// How the rows lie on threads: groups of `lanes` neighbours go along a row.
struct RowGrid {
    int lanes;              // a power of two, up to kRowThreads (forward) or 32 (backward)
    int64_t parts, stride;  // pieces of a row, and their length in elements
    bool packed;            // every pack of every row is aligned
};

// The inputs that a pack at t sees, v[W - 1 + j] that of token t + j.
template <int W, int N, class T>
__device__ inline void make_window(const Causal& p, const Pack<T, N>& x,
                                   const Pack<T, kBefore>& before, int64_t b, int64_t d, int64_t t,
                                   float (&v)[W - 1 + N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) v[W - 1 + j] = to_acc(x[j]);
#pragma unroll
    for (int j = 0; j < W - 1; ++j) v[j] = to_acc(before[kBefore - (W - 1) + j]);
    if (p.states && t == 0) {
#pragma unroll
        for (int j = 0; j < W - 1; ++j) v[j] = p.states.load<float>(b, d, j);
    }
}

// The bits of tokens t, t + 1, …; of those past the end none.
template <bool general, int N>
__device__ inline Pack<uint8_t, N> load_taps(const Causal& p, int64_t b, int64_t t, bool packed) {
    if (general && p.taps != nullptr) {
        return load_some<general, N>(p.taps + b * p.length + t, p.length - t, packed);
    }
    Pack<uint8_t, N> all;
#pragma unroll
    for (int j = 0; j < N; ++j) all[j] = 0xff;
    return all;
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
    const int64_t start = blockIdx.x % parts * g.stride + lane * N, step = g.lanes * N;
    Pack<T, N> raw[K];
    Pack<T, kBefore> before[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int64_t t = start + k * step;
        if (t >= p.length) continue;
        raw[k] = load_some<general, N>(in + t, p.length - t, g.packed);
        before[k] = load_some<general, kBefore>(in + t - kBefore, t == 0 ? 0 : kBefore, g.packed);
    }
    float filter[W][1], bias[1];
    load_filters<W, 1>(p, d, 1, filter, bias);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int64_t t = start + k * step;
        if (t >= p.length) continue;
        float v[W - 1 + N];
        make_window<W, N>(p, raw[k], before[k], b, d, t, v);
        const auto taps = load_taps<general, N>(p, b, t, g.packed);
        Pack<T, N> result;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            float sum = bias[0];
#pragma unroll
            for (int lag = W - 1; lag >= 0; --lag) {
                const float tap = keep<general>(taps[j], lag, v[W - 1 + j - lag]);
                sum = fmaf(filter[W - 1 - lag][0], tap, sum);
            }
            if (p.silu) sum = silu(sum);
            result[j] = from_acc<T>(keep<general>(taps[j], 0, sum));
        }
        store_some<general>(out + t, result, p.length - t, g.packed);
    }
}

// g: the gradient at the sums, before the activation, of tokens that see `v`.
template <bool general, int W, int N, class T>
__device__ inline void sum_gradients(const Causal& p, const float (&v)[W - 1 + N],
                                     const Pack<T, N>& dy, const Pack<uint8_t, N>& taps,
                                     const float (&filter)[W][1], float bias, int64_t count,
                                     float (&g)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
        g[j] = to_acc(dy[j]);
        if (p.silu) {
            float sum = bias;
#pragma unroll
            for (int lag = W - 1; lag >= 0; --lag) {
                const float tap = keep<general>(taps[j], lag, v[W - 1 + j - lag]);
                sum = fmaf(filter[W - 1 - lag][0], tap, sum);
            }
            g[j] *= silu_slope(sum);
        }
        g[j] = keep<general>(taps[j], 0, g[j]);
    }
    if (count < N) {
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] = j < count ? g[j] : 0.f;
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

    const int64_t pieces = (p.length + grid.stride - 1) / grid.stride, step = lanes * N;
    for (int64_t item = part; item < p.batch * pieces; item += grid.parts) {
        const int64_t b = item / pieces, begin = item % pieces * grid.stride;
        const int64_t end = begin + grid.stride < p.length ? begin + grid.stride : p.length;
        const T *in = io.x.row(b, d), *grad = io.dy.row(b, d);
        Pack<T, N> x, dy, next_x, next_dy;
        Pack<T, kBefore> before, next_before;
        const auto fetch = [&](int64_t t) {
            const int64_t count = active && t >= begin ? p.length - t : 0;
            next_x = load_some<general, N>(in + t, count, grid.packed);
            next_dy = load_some<general, N>(grad + t, count, grid.packed);
            next_before = load_some<general, kBefore>(
                in + t - kBefore, count > 0 && t > 0 ? kBefore : 0, grid.packed);
        };
        int64_t t = begin + (end - begin - 1) / step * step + lane * N;
        fetch(t);
        float right[H > 0 ? H : 1] = {};  // the gradients right of the piece, then of the last step
        if (active && end < p.length) {
            const int64_t count = p.length - end;
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
        for (; t - lane * N >= begin; t -= step) {
            x = next_x, dy = next_dy, before = next_before;
            fetch(t - step);
            float v[H + N], g[N + H];
            make_window<W, N>(p, x, before, b, d, t, v);
            const auto taps = load_taps<general, N>(p, b, t, grid.packed);
            const auto after = load_taps<general, kBefore>(p, b, t + N, grid.packed);
            {
                float own[N];
                sum_gradients<general, W, N>(p, v, dy, taps, filter, bias[0], p.length - t, own);
#pragma unroll
                for (int j = 0; j < N; ++j) g[j] = own[j];
            }
#pragma unroll
            for (int j = 0; j < H; ++j) {
                const float shared = lane == 0 ? right[j] : g[j];
                g[N + j] = __shfl_sync(0xffffffffu, shared, (lane + 1) % lanes, lanes);
                right[j] = g[j];
            }
            if (!active || t >= p.length) continue;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                dbias += g[j];
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    const float tap = keep<general>(taps[j], lag, v[H + j - lag]);
                    dweight[H - lag] = fmaf(g[j], tap, dweight[H - lag]);
                }
            }
            // the gradient of the input at t + j, which later tokens see
            const auto input_gradient = [&](int j, int first_lag) {
                float sum = 0.f;
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    if (lag < first_lag) continue;
                    const unsigned bits = j + lag < N ? taps[j + lag] : after[j + lag - N];
                    sum = fmaf(filter[H - lag][0], keep<general>(bits, lag, g[j + lag]), sum);
                }
                return sum;
            };
            if (io.dx.data != nullptr) {
                Pack<T, N> result;
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    float sum = input_gradient(j, 0);
                    const int64_t i = t + j - (p.length - H);  // its place in the final states
                    if (io.dfinal && i >= 0 && i < H) {
                        const int lag = static_cast<int>(H - 1 - i);
                        if (p.tap<general>(b, p.length - 1) >> lag & 1) {
                            sum += io.dfinal.template load<float>(b, d, i);
                        }
                    }
                    result[j] = from_acc<T>(sum);
                }
                store_some<general>(io.dx.row(b, d) + t, result, p.length - t, grid.packed);
            }
            if (io.dinitial && t == 0) {
#pragma unroll
                for (int i = 0; i < H; ++i) {
                    io.dinitial.store(b, d, i, input_gradient(i - H, H - i));
                }
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
