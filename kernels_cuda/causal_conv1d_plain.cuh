// causal_conv1d of any width, dtype and strides: a thread an element. And the small kernels that
// every layout shares.
#pragma once

#include "causal_conv1d.cuh"
#include "early.cuh"
#include "reduce.cuh"

namespace fusewright::cuda {

constexpr int kPlainThreads = 256, kPlainTaps = 4;

// A place in (batch, channels, length), neighbours along the time or along the channels.
struct Place {
    int64_t b, d, t;

    __device__ Place(int64_t i, int64_t channels, int64_t length, bool channels_inside) {
        const int64_t inner = channels_inside ? channels : length;
        const int64_t outer = channels_inside ? length : channels;
        const int64_t in = i % inner, out = i / inner % outer;
        b = i / inner / outer;
        d = channels_inside ? in : out;
        t = channels_inside ? out : in;
    }
};

inline unsigned plain_blocks(int64_t threads) {
    return static_cast<unsigned>(
        std::min<int64_t>(ceil_div<int64_t>(threads, kPlainThreads), int64_t{1} << 30));
}

// f(i) for i < n, shared out over the whole grid.
template <class F>
__device__ inline void for_each(int64_t n, F&& f) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) f(i);
}

// The input that token t sees at a lag; what it doesn't see is 0.
template <class T>
__device__ inline acc_t<T> seen_input(const View<const T>& x, const Causal& p, int64_t b, int64_t d,
                                      int64_t t, int64_t lag) {
    using A = acc_t<T>;
    if (!sees(p.ids, b, t, lag)) return A(0);
    return t >= lag ? to_acc(x.at(b, d, t - lag))
                    : p.states.template load<A>(b, d, t - lag + p.width - 1);
}

template <class T>
__device__ inline acc_t<T> plain_sum(const View<const T>& x, const Causal& p, int64_t b, int64_t d,
                                     int64_t t) {
    using A = acc_t<T>;
    A sum = p.bias ? load_one<A>(p.bias, d) : A(0);
    for (int64_t k = 0; k < p.width; ++k) {
        sum += load_one<A>(p.weight, d * p.width + k) * seen_input(x, p, b, d, t, p.width - 1 - k);
    }
    return sum;
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    causal_forward_plain(View<const T> x, View<T> y, Causal p) {
    using A = acc_t<T>;
    for_each(p.batch * p.channels * p.length, [&](int64_t i) {
        const Place at(i, p.channels, p.length, y.t != 1);
        A sum = plain_sum(x, p, at.b, at.d, at.t);
        if (p.silu) sum = silu(sum);
        y.at(at.b, at.d, at.t) = from_acc<T>(sees(p.ids, at.b, at.t, 0) ? sum : A(0));
    });
}

// The gradient at the sum of token t.
template <class T>
__device__ inline acc_t<T> plain_gradient(const CausalBackward<T>& io, const Causal& p, int64_t b,
                                          int64_t d, int64_t t) {
    using A = acc_t<T>;
    if (io.dy.data == nullptr || !sees(p.ids, b, t, 0)) return A(0);
    const A g = to_acc(io.dy.at(b, d, t));
    return p.silu ? g * silu_slope(plain_sum(io.x, p, b, d, t)) : g;
}

// Writes the gradient of the input at t, or, for t < 0, of the state there.
template <class T>
__device__ inline void plain_input(const CausalBackward<T>& io, const Causal& p, int64_t b,
                                   int64_t d, int64_t t) {
    using A = acc_t<T>;
    if (t < 0 ? !io.dinitial : io.dx.data == nullptr) return;
    const int64_t history = p.width - 1;
    A sum = 0;
    for (int64_t lag = t < 0 ? -t : 0; lag <= history && t + lag < p.length; ++lag) {
        const A weight = load_one<A>(p.weight, d * p.width + history - lag);
        if (sees(p.ids, b, t + lag, lag)) sum += weight * plain_gradient(io, p, b, d, t + lag);
    }
    const int64_t place = t - (p.length - history);  // in the final states
    if (io.dfinal && place >= 0 &&
        (p.length == 0 || sees(p.ids, b, p.length - 1, p.length - 1 - t))) {
        sum += io.dfinal.template load<A>(b, d, place);
    }
    if (t < 0) {
        io.dinitial.store(b, d, t + history, sum);
    } else {
        io.dx.at(b, d, t) = from_acc<T>(sum);
    }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    causal_inputs_plain(CausalBackward<T> io, Causal p) {
    const int64_t history = p.width - 1, length = p.length + history;
    for_each(p.batch * p.channels * length, [&](int64_t i) {
        const Place at(i, p.channels, length, io.x.t != 1);
        plain_input(io, p, at.b, at.d, at.t - history);
    });
}

// Only what has to do with states: the initial ones, and the inputs that are final ones too. Faster
// kernels leave these to it.
template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    causal_states_backward(CausalBackward<T> io, Causal p) {
    const int64_t history = p.width - 1, inputs = min(history, p.length), length = history + inputs;
    for_each(p.batch * p.channels * length, [&](int64_t i) {
        const Place at(i, p.channels, length, io.x.t != 1);
        plain_input(io, p, at.b, at.d, at.t - history + (at.t < history ? 0 : p.length - inputs));
    });
}

// Partial sums for weight and bias: a block has a channel, a part of its tokens and a few taps.
template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    causal_parameters_plain(CausalBackward<T> io, Causal p) {
    using A = acc_t<T>;
    __shared__ BlockScratch<kPlainThreads, kPlainTaps + 1, A> scratch;
    int turn = 0;
    const int64_t d = blockIdx.x, part = blockIdx.y, first = int64_t{blockIdx.z} * kPlainTaps;
    A sums[kPlainTaps + 1] = {};
    const int64_t step = int64_t{gridDim.y} * kPlainThreads, tokens = p.batch * p.length;
    for (int64_t i = part * kPlainThreads + threadIdx.x; i < tokens; i += step) {
        const int64_t b = i / p.length, t = i % p.length;
        const A g = plain_gradient(io, p, b, d, t);
#pragma unroll
        for (int k = 0; k < kPlainTaps; ++k) {
            if (first + k >= p.width) continue;
            sums[k] += g * seen_input(io.x, p, b, d, t, p.width - 1 - first - k);
        }
        sums[kPlainTaps] += g;
    }
    block_sum(sums, scratch, turn);
    if (threadIdx.x > 0) return;
    A* to = io.partial + part * (p.width + 1) * p.channels + d;
#pragma unroll
    for (int k = 0; k < kPlainTaps; ++k) {
        if (first + k < p.width) to[(first + k) * p.channels] = sums[k];
    }
    if (first == 0) to[p.width * p.channels] = sums[kPlainTaps];
}

// The last inputs, of the sequence of the last token.
template <class T>
__global__ void __launch_bounds__(kPlainThreads)
    causal_final_states(View<const T> x, T* out, Causal p) {
    const int64_t history = p.width - 1;
    for_each(p.batch * p.channels * history, [&](int64_t i) {
        const Place at(i, p.channels, history, false);
        const int64_t t = p.length - history + at.t;
        const bool counts = p.length == 0 || sees(p.ids, at.b, p.length - 1, history - 1 - at.t);
        using A = acc_t<T>;
        out[i] = !counts  ? from_acc<T>(A(0))
                 : t >= 0 ? x.at(at.b, at.d, t)
                          : from_acc<T>(p.states.template load<A>(at.b, at.d, t + history));
    });
}

// What each token sees, once for all channels.
template <class T>
__global__ void __launch_bounds__(kPlainThreads) causal_taps(Causal p, T* taps) {
    for_each(p.batch * p.length, [&](int64_t i) {
        const int64_t b = i / p.length, t = i % p.length;
        unsigned bits = 0;
        for (int lag = 0; lag < p.width; ++lag) bits |= unsigned{sees(p.ids, b, t, lag)} << lag;
        taps[i] = static_cast<T>(bits);
    });
}

constexpr int kSumLanes = 32, kSumParts = 16;

// dweight and dbias from the partial sums, which are added in their order.
template <class A>
__global__ void __launch_bounds__(kSumLanes* kSumParts)
    causal_sums(const A* partial, int64_t parts, int64_t channels, int64_t width,
                ParameterGradients total) {
    __shared__ A shared[kSumParts][kSumLanes + 1];
    const int64_t i = int64_t{blockIdx.x} * kSumLanes + threadIdx.x;
    const int64_t columns = (width + 1) * channels;
    A sum = 0;
    wait_for_last();
    if (i < columns) {
        for (int64_t part = threadIdx.y; part < parts; part += kSumParts) {
            sum += partial[part * columns + i];
        }
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || i >= columns) return;
#pragma unroll
    for (int part = 1; part < kSumParts; ++part) sum += shared[part][threadIdx.x];
    total.store(i % channels, i / channels, width, sum);
}

}  // namespace fusewright::cuda
