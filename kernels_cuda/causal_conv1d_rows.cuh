// causal_conv1d where the time is contiguous, for widths of 2 to 4: short rows, packs that are not
// whole, and tokens that do not see all before them.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

constexpr int kRowThreads = 128, kRowWarps = kRowThreads / 32;
constexpr int kBefore = 4, kRowPacks = 4, kRowAhead = 3;

// How the rows lie on threads: groups of `lanes` neighbours go along a row. The packs of a row
// start where the addresses are aligned, which, in the form `any`, may be before its first token.
struct RowGrid {
    int log_lanes;          // of up to kRowThreads (forward) or 32 (backward)
    int64_t parts, stride;  // of all pieces of a channel; their length in elements
    bool packed;            // the rows of all tensors lie alike to packs

    __host__ __device__ int lanes() const { return 1 << log_lanes; }

    // Tokens from the start of the first pack to that of the row.
    template <Form form, class T>
    __device__ int shift(const T* row) const {
        if (form != Form::any || !packed) return 0;
        return static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(T) % kPack<T>);
    }
};

// N tokens from t on, those of the row.
template <Form form, int N, class T>
__device__ inline Words<T, N> load_tokens(const T* row, int t, int length, bool packed) {
    return load_some<form, N>(row + t, -t, length - t, packed);
}

// The inputs that a pack at t sees, v[W - 1 + j] that of token t + j.
template <Form form, int W, int N, class T>
__device__ inline void make_window(const Causal& p, const Words<T, N>& x,
                                   const Words<T, kBefore>& before, int64_t b, int64_t d, int t,
                                   bool may_begin, float (&v)[W - 1 + N]) {
    float now[N], past[kBefore];
    unpack(x, now);
    unpack(before, past);
#pragma unroll
    for (int j = 0; j < N; ++j) v[W - 1 + j] = now[j];
#pragma unroll
    for (int j = 0; j < W - 1; ++j) v[j] = past[kBefore - (W - 1) + j];
    // a group of lanes past the last channel has no states
    if (!may_begin || !p.states || t >= W - 1 || d >= p.channels) return;
#pragma unroll
    for (int j = 0; j < (form == Form::any ? W - 1 + N : W - 1); ++j) {
        const int place = t + j;
        if (place >= 0 && place < W - 1) v[j] = p.states.load<float>(b, d, place);
    }
}

// What tokens t, t + 1, … see, a byte each; those outside of the row nothing.
template <Form form, int N>
__device__ inline Words<uint8_t, N> load_taps(const Causal& p, int64_t b, int t, bool packed) {
    if (p.taps != nullptr) {
        const bool aligned = packed && form != Form::any;  // as the packs are
        return load_tokens<form, N>(p.taps + b * p.length, t, static_cast<int>(p.length), aligned);
    }
    Words<uint8_t, N> all;
#pragma unroll
    for (int i = 0; i < Words<uint8_t, N>::count; ++i) all.words[i] = ~0u;
    if constexpr (form == Form::any) {
        const int last = static_cast<int>(p.length) - t;
        if (t < 0 || last < N) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                if (j < -t || j >= last) all.words[j / 4] &= ~(0xffu << j % 4 * 8);
            }
        }
    }
    return all;
}

// Whether all of N tokens see all before them.
template <int W, int N>
__device__ inline bool all_seen(const Words<uint8_t, N>& taps) {
    constexpr uint32_t full = ((1u << W) - 1) * 0x01010101u;
    uint32_t both = full;
#pragma unroll
    for (int i = 0; i < Words<uint8_t, N>::count; ++i) both &= taps.words[i];
    return both == full;
}

// v if token j of the taps sees the one `lag` before it.
template <bool masked, int N>
__device__ inline float keep(const Words<uint8_t, N>& taps, int j, int lag, float v) {
    return keep<masked>(taps.words[j / 4], j % 4 * 8 + lag, v);
}

template <bool masked, int W, int N>
__device__ inline float convolve(const float (&v)[W - 1 + N], const float (&filter)[W], float bias,
                                 const Words<uint8_t, N>& taps, int j) {
    float sum = bias;
#pragma unroll
    for (int lag = W - 1; lag >= 0; --lag) {
        const float tap = keep<masked>(taps, j, lag, v[W - 1 + j - lag]);
        sum = fmaf(filter[W - 1 - lag], tap, sum);
    }
    return sum;
}

template <int W>
__device__ inline void load_filter(const Causal& p, int64_t d, float (&filter)[W], float& bias) {
    float taps[W][1], one[1];
    load_filters<W, 1>(p, d, 1, taps, one);
#pragma unroll
    for (int k = 0; k < W; ++k) filter[k] = taps[k][0];
    bias = one[0];
}

template <class T, int W, Form form>
__global__ void __launch_bounds__(kRowThreads, 5)
    causal_rows_forward(View<const T> x, View<T> y, Causal p, RowGrid g) {
    constexpr int N = kPack<T>, K = kRowPacks;
    // few divisions: until the first loads are on their way, a block does nothing else
    const unsigned lane = threadIdx.x & (g.lanes() - 1), groups = kRowThreads >> g.log_lanes;
    const unsigned parts = static_cast<unsigned>(g.parts);
    const unsigned tile = parts == 1 ? blockIdx.x : blockIdx.x / parts;
    const unsigned part = blockIdx.x - tile * parts;
    const unsigned row = tile * groups + (threadIdx.x >> g.log_lanes);
    const unsigned channels = static_cast<unsigned>(p.channels);
    const unsigned b = row / channels, d = row % channels;
    if (b >= p.batch) return;
    const T* in = x.row(b, d);
    T* out = y.row(b, d);
    const int length = static_cast<int>(p.length), step = g.lanes() * N;
    const int start =
        static_cast<int>(part * g.stride) + static_cast<int>(lane) * N - g.shift<form>(in);
    Words<T, N> raw[K];
    Words<T, kBefore> before[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
        raw[k] = load_tokens<form, N>(in, start + k * step, length, g.packed);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {  // in lines that are on their way then
        const int t = start + k * step - kBefore;
        before[k] = load_tokens<form, kBefore>(in, t, length, g.packed);
    }
    float filter[W], bias;
    load_filter(p, d, filter, bias);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int t = start + k * step;
        if (t >= length) return;
        float v[W - 1 + N], result[N];
        make_window<form, W, N>(p, raw[k], before[k], b, d, t, k == 0, v);
        const auto taps = load_taps<form, N>(p, b, t, g.packed);
        const auto sum = [&](auto masked) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                result[j] = convolve<masked.value, W, N>(v, filter, bias, taps, j);
            }
        };
        const bool masked = __any_sync(__activemask(), !all_seen<W, N>(taps));
        masked ? sum(std::true_type{}) : sum(std::false_type{});
        if (p.silu) {
#pragma unroll
            for (int j = 0; j < N; ++j) result[j] = silu(result[j]);
        }
        if (masked) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                result[j] = keep<true>(taps, j, 0, result[j]);
            }
        }
        store_some<form>(out + t, result, -t, length - t, g.packed);
    }
}

// What N tokens see, and the ones after them, a byte each.
template <int N>
struct RowTaps {
    Words<uint8_t, N> own;
    Words<uint8_t, kBefore> after;
};

template <Form form, int N>
__device__ inline RowTaps<N> load_row_taps(const Causal& p, int64_t b, int t, bool packed) {
    RowTaps<N> taps{load_taps<form, N>(p, b, t, packed), {~0u}};  // past the end are no gradients
    if (t + N < p.length) {
        taps.after = load_taps<form, kBefore>(p, b, t + N, packed);
    }
    return taps;
}

// What the gradients of a pack at t depend on.
template <class T, int N>
struct RowStep {
    Words<T, N> x, dy;
    Words<T, kBefore> before;
    RowTaps<N> taps;
};

template <Form form, class T, int N>
__device__ inline void load_step(const Causal& p, const RowGrid& grid, const T* x, const T* dy,
                                 int64_t b, int t, RowStep<T, N>& to) {
    const int length = static_cast<int>(p.length);
    to.x = load_tokens<form, N>(x, t, length, grid.packed);
    to.before = load_tokens<form, kBefore>(x, t - kBefore, length, grid.packed);
    to.dy = load_tokens<form, N>(dy, t, length, grid.packed);
    to.taps = load_row_taps<form, N>(p, b, t, grid.packed);
}

// Inner steps of a warp on their way into shared memory: they are whole, for all lanes, and do not
// begin a row. The elements before a pack are the neighbour's, or, for the first lane of a group,
// come as well.
template <class T, int N>
struct RowRing {
    struct Stage {
        Words<T, N> x[32], dy[32];
        Words<T, kBefore> before[8];
    };
    Stage* stages;
    int lanes, lane, group;  // the group's place in the warp

    __device__ void fetch(int stage, const T* x, const T* dy) const {
        Stage& to = stages[stage];
        copy_start(to.x[threadIdx.x % 32], x);
        copy_start(to.dy[threadIdx.x % 32], dy);
        if (lane == 0) copy_start(to.before[group], x - kBefore);
    }
    __device__ void get(int stage, RowStep<T, N>& to) const {
        constexpr int count = Words<T, kBefore>::count;
        const Stage& from = stages[stage];
        to.x = from.x[threadIdx.x % 32];
        to.dy = from.dy[threadIdx.x % 32];
#pragma unroll
        for (int i = 0; i < count; ++i) {
            const uint32_t own = to.x.words[Words<T, N>::count - count + i];
            to.before.words[i] = __shfl_up_sync(0xffffffffu, own, 1, lanes);
        }
        if (lane == 0) to.before = from.before[group];
    }
};

// g: the (scaled) gradients at the sums of tokens that see `v`.
template <bool masked, int W, int N, class T>
__device__ inline void sum_gradients(const Causal& p, const float (&v)[W - 1 + N],
                                     const Words<T, N>& dy, const Words<uint8_t, N>& taps,
                                     const float (&filter)[W], float bias, float* g) {
    float own[N];
    unpack(dy, own);
    if (p.silu) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            own[j] *= scaled_silu_slope(convolve<masked, W, N>(v, filter, bias, taps, j));
        }
    }
#pragma unroll
    for (int j = 0; j < N; ++j) g[j] = keep<masked>(taps, j, 0, own[j]);
}

// A block has a channel (or a few, of short rows), whose pieces its warps share. A group of lanes
// walks along a piece from right to left: what a token needs of the gradients to its right is its
// neighbour's, or of the step before.
template <class T, int W, Form form>
__global__ void __launch_bounds__(kRowThreads, 4)
    causal_rows_backward(CausalBackward<T> io, Causal p, RowGrid grid) {
    constexpr int N = kPack<T>, H = W - 1;
    const int lanes = grid.lanes(), lane = threadIdx.x & (lanes - 1);
    const unsigned groups = 32 >> grid.log_lanes, group = threadIdx.x % 32 >> grid.log_lanes,
                   warp = threadIdx.x / 32;
    const unsigned columns = (static_cast<unsigned>(p.channels) + groups - 1) / groups;
    const unsigned part = blockIdx.x / columns, d0 = blockIdx.x % columns * groups, d = d0 + group;
    const bool active = d < p.channels, all_active = d0 + groups <= p.channels;
    float filter[W] = {}, bias = 0.f;
    if (active) load_filter(p, d, filter, bias);
    const float scale = p.silu ? -kLog2E : 1.f;
#pragma unroll
    for (int k = 0; k < W; ++k) filter[k] *= scale;
    bias *= scale;
    float dweight[W] = {}, dbias = 0.f;

    const int length = static_cast<int>(p.length), stride = static_cast<int>(grid.stride);
    const int most = length + (form == Form::any && grid.packed ? N - 1 : 0);
    const unsigned pieces = (most + stride - 1) / stride;
    const int step = lanes * N, next_lane = (lane + 1) & (lanes - 1);
    __shared__ typename RowRing<T, N>::Stage stages[kRowWarps][kRowAhead];
    const RowRing<T, N> ring{stages[warp], lanes, lane, static_cast<int>(group)};
    const unsigned items = static_cast<unsigned>(p.batch) * pieces,
                   parts = static_cast<unsigned>(grid.parts);
    for (unsigned item = part * kRowWarps + warp; item < items; item += parts * kRowWarps) {
        const int64_t b = item / pieces;
        // a group without a channel reads the first one's, and writes nothing
        const T *in = io.x.row(b, active ? d : d0), *grad = io.dy.row(b, active ? d : d0);
        T* out = io.dx.row(b, d);
        const int begin = static_cast<int>(item % pieces) * stride - grid.shift<form>(in),
                  end = min(begin + stride, length), steps = (end - begin + step - 1) / step;
        if (form == Form::any && end <= begin) continue;
        float right[H] = {};  // the gradients right of the piece, then of the last step
        if (end < length) {
            const auto past = load_tokens<form, kBefore>(in, end, length, grid.packed);
            const auto past_dy = load_tokens<form, kBefore>(grad, end, length, grid.packed);
            const auto past_before =
                load_tokens<form, kBefore>(in, end - kBefore, length, grid.packed);
            const auto past_taps = load_taps<form, kBefore>(p, b, end, grid.packed);
            float v[H + kBefore], g[kBefore];
            make_window<form, W, kBefore>(p, past, past_before, b, d, end, true, v);
            sum_gradients<true, W, kBefore>(p, v, past_dy, past_taps, filter, bias, g);
#pragma unroll
            for (int j = 0; j < H; ++j) right[j] = g[j];
        }
        const auto walk = [&](int t, const RowStep<T, N>& at, auto inner, auto may_mask) {
            constexpr bool kMasked = may_mask.value;
            const bool inside = inner.value || (active && t < length);
            float v[H + N], g[N + H];
            make_window<form, W, N>(p, at.x, at.before, b, d, t, !inner.value, v);
            sum_gradients<kMasked, W, N>(p, v, at.dy, at.taps.own, filter, bias, g);
#pragma unroll
            for (int j = 0; j < H; ++j) {
                const float own = inside ? g[j] : 0.f, shared = lane == 0 ? right[j] : own;
                g[N + j] = __shfl_sync(0xffffffffu, shared, next_lane, lanes);
                right[j] = own;
            }
            if (!inside) return;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                dbias += g[j];
#pragma unroll
                for (int lag = 0; lag < W; ++lag) {
                    const float tap = keep<kMasked>(at.taps.own, j, lag, v[H + j - lag]);
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
                    const float from =
                        j + lag < N ? keep<kMasked>(at.taps.own, j + lag, lag, g[j + lag])
                                    : keep<kMasked>(at.taps.after, j + lag - N, lag, g[j + lag]);
                    result[j] = fmaf(filter[H - lag], from, result[j]);
                }
            }
            if constexpr (inner.value) {
                *reinterpret_cast<Words<T, N>*>(out + t) = pack<T>(result);
            } else {
                store_some<form>(out + t, result, -t, length - t, grid.packed);
            }
        };
        // steps [low, high) are inner ones
        const bool aligned = (form != Form::any || grid.packed) && all_active;
        const int high = !aligned ? 0 : (end - begin) / step, low = min(begin > 0 ? 0 : 1, high);
        int s = steps - 1, t = begin + s * step + lane * N;
        while (s >= 0) {
            RowStep<T, N> now;
            if (s >= high || s < low) {
                load_step<form>(p, grid, in, grad, b, t, now);
                walk(t, now, std::false_type{}, std::true_type{});
                --s, t -= step;
                continue;
            }
            int ahead = s, ahead_t = t;
            const auto fetch = [&](int stage) {
                if (ahead >= low) ring.fetch(stage, in + ahead_t, grad + ahead_t);
                copies_end();
                --ahead, ahead_t -= step;
            };
#pragma unroll
            for (int stage = 0; stage < kRowAhead - 1; ++stage) fetch(stage);
            now.taps = load_row_taps<form, N>(p, b, t, grid.packed);
            int stage = 0;
#pragma unroll 1
            for (; s >= low; --s, t -= step) {
                fetch(stage == 0 ? kRowAhead - 1 : stage - 1);
                copies_wait<kRowAhead - 1>();
                ring.get(stage, now);
                stage = stage + 1 == kRowAhead ? 0 : stage + 1;
                RowTaps<N> next = now.taps;
                if (s > low) next = load_row_taps<form, N>(p, b, t - step, grid.packed);
                const bool masked =
                    __any_sync(0xffffffffu, !all_seen<W, N>(now.taps.own) ||
                                                !all_seen<W, kBefore>(now.taps.after));
                if (masked) {
                    walk(t, now, std::true_type{}, std::true_type{});
                } else {
                    walk(t, now, std::true_type{}, std::false_type{});
                }
                now.taps = next;
            }
        }
    }
    if (io.partial == nullptr && !io.total.weight && !io.total.bias) return;
    __shared__ float shared[kRowWarps][8 * (W + 1)];
    const auto reduce = [&](float sum, int k) {
        for (int offset = lanes / 2; offset > 0; offset /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        }
        if (lane == 0) shared[warp][group * (W + 1) + k] = sum;
    };
#pragma unroll
    for (int k = 0; k < W; ++k) reduce(dweight[k], k);
    reduce(dbias, W);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < groups * (W + 1); i += kRowThreads) {
        const unsigned channel = d0 + i / (W + 1), k = i % (W + 1);
        if (channel >= p.channels) continue;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < kRowWarps; ++w) sum += shared[w][i];
        sum *= scale;  // the gradients at the sums were divided by it
        if (io.partial != nullptr) {
            io.partial[(int64_t{part} * (W + 1) + k) * p.channels + channel] = sum;
        } else {
            io.total.store(channel, k, W, sum);
        }
    }
}

}  // namespace fusewright::cuda
