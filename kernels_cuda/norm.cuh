// The rows of layer_norm (`centred`) and rms_norm. A row is read once into registers by one warp or
// one block; rows that don't fit, or can't be read in packs, take the plain kernel of
// norm_plain.cuh.
#pragma once

#include "activation.cuh"
#include "launch.h"
#include "reduce.cuh"
#include "rows.cuh"

namespace fusewright::cuda {

struct NormOptions {
    const char* op;
    int64_t norm_dims;
    double eps;
    Activation activation;
    double offset = 0;         // added to the weight
    bool round_first = false;  // Llama's order: round the normalised row, then multiply
};

// What forward and backward kernels know of the call.
template <class A>
struct NormParams {
    int64_t rows, columns;
    A eps, offset;
    bool round_first;
    Activation activation;
    Untyped weight, bias;
};

template <class A>
NormParams<A> norm_params(const NormOptions& o, const Rows& x, const std::optional<Tensor>& weight,
                          const std::optional<Tensor>& bias) {
    for (const auto& parameter : {weight, bias}) {
        FW_CHECK(!present(parameter) || parameter->numel() == x.columns, o.op,
                 "weight and bias must have ", x.columns, " elements");
    }
    return {x.rows,        x.columns,    A(o.eps),        A(o.offset),
            o.round_first, o.activation, Untyped(weight), Untyped(bias)};
}

inline bool is_double(const std::optional<Tensor>& t) {
    return present(t) && t->scalar_type() == ScalarType::Double;
}

// Whether a parameter can be read in packs of `pack` elements.
inline bool packs_of(const std::optional<Tensor>& t, int pack) {
    return !present(t) || (!is_double(t) &&
                           aligned(t->data_ptr(), std::min<size_t>(16, pack * t->element_size())));
}

// Rounds as the forward does before the weight, where it does.
template <class T, class A>
__device__ inline A round_if(bool wanted, A v) {
    return wanted ? static_cast<A>(to_acc(from_acc<T>(v))) : v;
}

// How a row lies in registers: `threads` a row, each with `packs` of 16 bytes; a block has as many
// rows as fill `block` threads.
template <int threads_, int packs_>
struct RowShape {
    static constexpr int threads = threads_, packs = packs_;
    static constexpr int block = threads == 32 ? 256 : threads, rows = block / threads;
};

// Calls f with the shape for rows of `packs`; false where none is large enough.
template <class F>
bool with_row_shape(int64_t packs, F&& f) {
    if (packs <= 32 * 4) {
        f(RowShape<32, 4>{});
    } else if (packs <= 128 * 4) {
        f(RowShape<128, 4>{});
    } else if (packs <= 512 * 2) {
        f(RowShape<512, 2>{});
    } else if (packs <= 512 * 4) {
        f(RowShape<512, 4>{});
    } else {
        return false;
    }
    return true;
}

template <class T>
struct NormForward {
    const T* x;
    RowIndex x_rows, residual_rows;
    Untyped residual, total;
    T* y;
    float *mean, *rstd;
};

template <class T, bool centred, bool activated, class Shape>
__global__ void __launch_bounds__(Shape::block)
    norm_forward_kernel(NormForward<T> io, NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    __shared__ float scratch[2 * threads / 32];
    const int lane = threadIdx.x % threads;
    const int64_t row = int64_t{blockIdx.x} * Shape::rows + threadIdx.x / threads;
    if (row >= p.rows) return;  // whole warps: with several rows a block, each warp has its own
    const T* x = io.x + io.x_rows(row);
    float v[packs][N];
    float sums[1] = {0};
#pragma unroll
    for (int k = 0; k < packs; ++k) {
        const int64_t i = (int64_t{k} * threads + lane) * N;
        if (i >= p.columns) continue;
        const auto pack = *reinterpret_cast<const Pack<T, N>*>(x + i);
#pragma unroll
        for (int j = 0; j < N; ++j) v[k][j] = to_acc(pack[j]);
        if (io.residual) {
            float other[N];
            load_pack(io.residual, io.residual_rows(row) + i, other);
#pragma unroll
            for (int j = 0; j < N; ++j) v[k][j] += other[j];
            // what is normalised is the sum that is returned, rounding included
            store_pack(io.total, row * p.columns + i, v[k]);
            with_element<false>(io.total.dtype, [&](auto* type) {
                using R = std::remove_pointer_t<decltype(type)>;
#pragma unroll
                for (int j = 0; j < N; ++j) v[k][j] = to_acc(from_acc<R>(v[k][j]));
            });
        }
#pragma unroll
        for (int j = 0; j < N; ++j) sums[0] += centred ? v[k][j] : v[k][j] * v[k][j];
    }
    block_sum<threads>(sums, scratch);
    const float n = static_cast<float>(p.columns);
    float square = sums[0] / n;
    if constexpr (centred) {
        float mean = sums[0] / n;
        float moments[2] = {0, 0};  // of the deviations; the first is what rounding the mean lost
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            if ((int64_t{k} * threads + lane) * N >= p.columns) continue;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                v[k][j] -= mean;
                moments[0] += v[k][j];
                moments[1] += v[k][j] * v[k][j];
            }
        }
        block_sum<threads>(moments, scratch);
        const float rest = moments[0] / n;
        square = moments[1] / n - rest * rest;
#pragma unroll
        for (int k = 0; k < packs; ++k) {
#pragma unroll
            for (int j = 0; j < N; ++j) v[k][j] -= rest;
        }
        if (lane == 0) io.mean[row] = mean + rest;
    }
    const float rstd = rsqrtf(square + p.eps);
    if (lane == 0) io.rstd[row] = rstd;
#pragma unroll
    for (int k = 0; k < packs; ++k) {
        const int64_t i = (int64_t{k} * threads + lane) * N;
        if (i >= p.columns) continue;
        float w[N], b[N];
        if (p.weight) load_pack(p.weight, i, w);
        if (p.bias) load_pack(p.bias, i, b);
        Pack<T, N> out;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            float r = round_if<T>(p.round_first, v[k][j] * rstd);
            if (p.weight) r *= w[j] + p.offset;
            if (p.bias) r += b[j];
            v[k][j] = r;
        }
        if constexpr (activated) activate_all(p.activation, v[k]);
#pragma unroll
        for (int j = 0; j < N; ++j) out[j] = from_acc<T>(v[k][j]);
        *reinterpret_cast<Pack<T, N>*>(io.y + row * p.columns + i) = out;
    }
}

}  // namespace fusewright::cuda
