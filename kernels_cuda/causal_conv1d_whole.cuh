// causal_conv1d in its common form, for widths of 2 to 4: packs are aligned and whole, and every
// token sees all before it. A thread asks for all that it needs at once; many threads hide the
// rest.
#pragma once

#include "causal_conv1d_channels.cuh"
#include "causal_conv1d_filters.cuh"
#include "causal_conv1d_rows.cuh"
#include "reduce.cuh"

namespace fusewright::cuda {

constexpr int kWholePacks = 2, kWholeItem = 4;
constexpr int kWholeWarps = 8;  // at most, in the backward
template <class T>
constexpr int kWholeTokens = 32 / sizeof(T);

template <class T>
__device__ inline Words<T, kPack<T>> load_pack_at(const T* row, unsigned i) {
    return *reinterpret_cast<const Words<T, kPack<T>>*>(row + i * kPack<T>);
}
template <class T>
__device__ inline Words<T, kBefore> load_before(const T* row, unsigned i) {
    return *reinterpret_cast<const Words<T, kBefore>*>(row + i * kPack<T> - kBefore);
}

// A block has neighbouring packs of a row; more than two a thread cost more threads than they save
// loads.
template <class T, int W>
__global__ void __launch_bounds__(kRowThreads, 12)
    causal_whole_rows_forward(View<const T> x, View<T> y, Causal p) {
    constexpr int N = kPack<T>, K = kWholePacks;
    const unsigned d = blockIdx.y, b = blockIdx.z, packs = static_cast<unsigned>(p.length) / N;
    const unsigned first = blockIdx.x * blockDim.x * K + threadIdx.x;
    const T* in = x.row(b, d);
    T* out = y.row(b, d);
    Words<T, N> now[K] = {};
    Words<T, kBefore> before[K] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const unsigned i = first + k * blockDim.x;
        if (i < packs) now[k] = load_pack_at(in, i);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {  // in lines that are on their way then
        const unsigned i = first + k * blockDim.x;
        if (i > 0 && i < packs) before[k] = load_before(in, i);
    }
    Filters<W, 1> travelling;
    travelling.load(p, d);
#pragma unroll
    for (int k = 0; k < K; ++k) fence(now[k]), fence(before[k]);
    float filter[W], bias;
    travelling.unpack(p, filter, bias);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const unsigned i = first + k * blockDim.x;
        if (i >= packs) return;
        float v[W - 1 + N], result[N];
        make_window<Form::whole, W, N>(p, now[k], before[k], b, d, static_cast<int>(i) * N, k == 0,
                                       v);
#pragma unroll
        for (int j = 0; j < N; ++j) result[j] = convolve<false, W, N>(v, filter, bias, {}, j);
        if (p.silu) {
#pragma unroll
            for (int j = 0; j < N; ++j) result[j] = silu(result[j]);
        }
        *reinterpret_cast<Words<T, N>*>(out + i * N) = pack<T>(result);
    }
}

// What each lane gets of the pack before its own: the last words of its neighbour's, for the first
// lane those of `past`, which the last lane has, or itself.
template <int H, bool own_past, class T, int N>
__device__ inline Words<T, kBefore> shift_packs(const Words<T, N>& now, const uint32_t* past) {
    constexpr int count = Words<T, kBefore>::count, wanted = (H * sizeof(T) + 3) / 4;
    const unsigned lane = threadIdx.x % 32;
    Words<T, kBefore> before = {};
#pragma unroll
    for (int i = count - wanted; i < count; ++i) {
        const uint32_t own = now.words[Words<T, N>::count - count + i];
        if constexpr (own_past) {
            before.words[i] = __shfl_up_sync(0xffffffffu, own, 1);
            if (lane == 0) before.words[i] = past[i];
        } else {
            before.words[i] =
                __shfl_sync(0xffffffffu, lane == 31 ? past[i] : own, (lane + 31) % 32);
        }
    }
    return before;
}

// A block has a channel, or a part of it. Its warps share the items of that, neighbouring packs of
// a row, and walk along one from right to left: what a token needs of the gradients to its right is
// its neighbour's, or of the packs before. Those of the first tokens after an item are computed
// twice.
template <class T, int W>
__global__ void __launch_bounds__(kWholeWarps * 32, 3)
    causal_whole_rows_backward(CausalBackward<T> io, Causal p, unsigned row_items) {
    constexpr int N = kPack<T>, H = W - 1, K = kWholeItem, count = Words<T, kBefore>::count;
    const unsigned d = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned packs = static_cast<unsigned>(p.length) / N;
    const unsigned items = static_cast<unsigned>(p.batch) * row_items, warps = blockDim.x / 32;
    const float scale = p.silu ? -kLog2E : 1.f;
    float filter[W] = {}, bias = 0.f, dweight[W] = {}, dbias = 0.f;
    Filters<W, 1> travelling;
    travelling.load(p, d);
    bool arrived = false;
    for (unsigned item = blockIdx.y * warps + warp; item < items; item += gridDim.y * warps) {
        const unsigned b = item / row_items, first = (item - b * row_items) * (32 * K) + lane;
        const unsigned end = first - lane + 32 * K;
        const T *in = io.x.row(b, d), *grad = io.dy.row(b, d);
        T* out = io.dx.row(b, d);
        Words<T, N> x[K] = {}, dy[K] = {};
        Words<T, kBefore> before = {}, after = {}, dy_after = {};
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const unsigned i = first + k * 32;
            if (i < packs) x[k] = load_pack_at(in, i), dy[k] = load_pack_at(grad, i);
        }
        if (lane == 0 && first > 0) before = load_before(in, first);
        if (lane == 31 && end < packs) {
            after = *reinterpret_cast<const Words<T, kBefore>*>(in + end * N);
            dy_after = *reinterpret_cast<const Words<T, kBefore>*>(grad + end * N);
        }
#pragma unroll
        for (int k = 0; k < K; ++k) fence(x[k]), fence(dy[k]);
        fence(before), fence(after), fence(dy_after);
        if (!arrived) {  // once the first item is on its way
            arrived = true;
            travelling.unpack(p, filter, bias);
            bias *= scale;
#pragma unroll
            for (int k = 0; k < W; ++k) filter[k] *= scale;
        }
        float right[kBefore] = {};  // the gradients right of the item, then of the last packs
        if (end < packs) {
            Words<T, kBefore> last;
#pragma unroll
            for (int i = 0; i < count; ++i) {
                last.words[i] = x[K - 1].words[Words<T, N>::count - count + i];
            }
            float v[H + kBefore];
            make_window<Form::whole, W, kBefore>(p, after, last, b, d, static_cast<int>(end) * N,
                                                 false, v);
            sum_gradients<false, W, kBefore>(p, v, dy_after, {}, filter, bias, right);
        }
#pragma unroll
        for (int k = K - 1; k >= 0; --k) {
            const unsigned i = first + k * 32;
            const bool inside = i < packs;
            const auto past = k > 0 ? shift_packs<H, false>(x[k], x[k > 0 ? k - 1 : 0].words +
                                                                      Words<T, N>::count - count)
                                    : shift_packs<H, true>(x[k], before.words);
            float v[H + N], g[N + H];
            make_window<Form::whole, W, N>(p, x[k], past, b, d, static_cast<int>(i) * N, k == 0, v);
            sum_gradients<false, W, N>(p, v, dy[k], {}, filter, bias, g);
#pragma unroll
            for (int j = 0; j < H; ++j) {
                const float own = inside ? g[j] : 0.f;
                if (k == K - 1) {
                    g[N + j] = __shfl_down_sync(0xffffffffu, own, 1);
                    if (lane == 31) g[N + j] = right[j];
                } else {
                    g[N + j] =
                        __shfl_sync(0xffffffffu, lane == 0 ? right[j] : own, (lane + 1) % 32);
                }
                right[j] = own;
            }
            if (!inside) continue;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                dbias += g[j];
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    dweight[H - lag] = fmaf(g[j], v[H + j - lag], dweight[H - lag]);
                }
            }
            if (io.dx.data == nullptr) continue;
            float result[N] = {};
#pragma unroll
            for (int j = 0; j < N; ++j) {
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    result[j] = fmaf(filter[H - lag], g[j + lag], result[j]);
                }
            }
            *reinterpret_cast<Words<T, N>*>(out + i * N) = pack<T>(result);
        }
    }
    if (io.partial == nullptr && !io.total.weight && !io.total.bias) return;
    __shared__ float shared[kWholeWarps][W + 1];
#pragma unroll
    for (int k = 0; k <= W; ++k) {
        const float sum = warp_sum(k < W ? dweight[k < W ? k : 0] : dbias);
        if (lane == 0) shared[warp][k] = sum;
    }
    __syncthreads();
    if (threadIdx.x > W) return;
    float sum = 0.f;
    for (unsigned i = 0; i < warps; ++i) sum += shared[i][threadIdx.x];
    sum *= scale;  // the gradients at the sums were divided by it
    if (io.partial != nullptr) {
        io.partial[(int64_t{blockIdx.y} * (W + 1) + threadIdx.x) * p.channels + d] = sum;
    } else {
        io.total.store(d, threadIdx.x, W, sum);
    }
}

// Contiguous channels: a thread has a few of them and some neighbouring tokens. Blocks stand on
// channels, time and batch; `lanes` threads side by side on channels, the others of a block on
// later tokens. 16-bit types wait for instructions, so places are stepped to, not multiplied out.
template <class T, int W>
__global__ void __launch_bounds__(kChannelThreads, 6)
    causal_whole_channels_forward(View<const T> x, View<T> y, Causal p, int log_lanes) {
    constexpr int C = kChannels<T>, H = W - 1, U = kWholeTokens<T>;
    const unsigned lane = threadIdx.x & ((1u << log_lanes) - 1), b = blockIdx.z;
    const unsigned d = ((blockIdx.x << log_lanes) + lane) * C;
    const int begin =
        static_cast<int>((blockIdx.y * kChannelThreads + threadIdx.x) >> log_lanes) * U;
    const int rest = static_cast<int>(p.length) - begin;
    if (d >= static_cast<unsigned>(p.channels) || rest <= 0) return;
    const T* from = x.row(b, d) + (begin - H) * x.t;
    Words<T, C> raw[H + U] = {};
#pragma unroll
    for (int u = 0; u < H + U; ++u, from += x.t) {
        if (u < H ? begin > 0 : u - H < rest) raw[u] = *reinterpret_cast<const Words<T, C>*>(from);
    }
    Filters<W, C> travelling;
    travelling.load(p, d);
#pragma unroll
    for (int u = 0; u < H + U; ++u) fence(raw[u]);
    float filter[W][C], bias[C], v[H + U][C];
    travelling.unpack(p, filter, bias);
#pragma unroll
    for (int k = 0; k < H; ++k) unpack(raw[k], v[k]);
    if (begin == 0 && p.states) {
#pragma unroll
        for (int k = 0; k < H; ++k) {
#pragma unroll
            for (int c = 0; c < C; ++c) v[k][c] = p.states.load<float>(b, d + c, k);
        }
    }
    T* to = y.row(b, d) + begin * y.t;
    const auto steps = [&](auto with_silu) {
#pragma unroll
        for (int u = 0; u < U; ++u, to += y.t) {
            float result[C];
            unpack(raw[H + u], v[H + u]);
            convolve<false>(v + u, filter, bias, ~0u, result);
            if constexpr (with_silu.value) {
#pragma unroll
                for (int c = 0; c < C; ++c) result[c] = silu(result[c]);
            }
            if (u < rest) *reinterpret_cast<Words<T, C>*>(to) = pack<T>(result);
        }
    };
    if (p.silu) {
        steps(std::true_type{});
    } else {
        steps(std::false_type{});
    }
}

}  // namespace fusewright::cuda
