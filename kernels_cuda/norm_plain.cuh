// Rows of any length, stride and dtype, fp64 among them: one block a row, the row read again for
// every pass.
#pragma once

#include "norm.cuh"

namespace fusewright::cuda {

constexpr int kPlainThreads = 256;

struct PlainRows {
    Untyped data;
    RowIndex index;
    int64_t step = 1;

    PlainRows() = default;
    explicit PlainRows(const Rows& rows) : data(rows.tensor), index(rows.index), step(rows.step) {}
    explicit PlainRows(const std::optional<Rows>& rows) {
        if (rows) *this = PlainRows(*rows);
    }
    template <class A>
    __device__ A operator()(int64_t start, int64_t i) const {
        return load_one<A>(data, start + i * step);
    }
};

// f(i) for the columns of this thread.
template <class F>
__device__ inline void for_columns(int64_t columns, F&& f) {
    for (int64_t i = threadIdx.x; i < columns; i += kPlainThreads) f(i);
}

template <class T, bool centred>
__global__ void __launch_bounds__(kPlainThreads)
    norm_forward_plain(PlainRows x, PlainRows residual, Untyped total, T* y, acc_t<T>* means,
                       acc_t<T>* rstds, NormParams<acc_t<T>> p) {
    using A = acc_t<T>;
    __shared__ BlockScratch<kPlainThreads, 2, A> scratch;
    int turn = 0;
    const A n = static_cast<A>(p.columns);
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const int64_t start = x.index(row), other = residual.index(row), out = row * p.columns;
        const auto value = [&](int64_t i) {
            return residual.data ? load_one<A>(total, out + i) : x.template operator()<A>(start, i);
        };
        if (residual.data) {  // every thread reads back only what it wrote
            for_columns(p.columns, [&](int64_t i) {
                const A sum =
                    x.template operator()<A>(start, i) + residual.template operator()<A>(other, i);
                store_one(total, out + i, sum);
            });
        }
        A sums[1] = {0};
        for_columns(p.columns, [&](int64_t i) {
            const A v = value(i);
            sums[0] += centred ? v : v * v;
        });
        block_sum(sums, scratch, turn);
        A square = sums[0] / n, mean = 0, rest = 0;
        if constexpr (centred) {
            mean = sums[0] / n;
            A moments[2] = {0, 0};
            for_columns(p.columns, [&](int64_t i) {
                const A v = value(i) - mean;
                moments[0] += v;
                moments[1] += v * v;
            });
            block_sum(moments, scratch, turn);
            rest = moments[0] / n;
            square = moments[1] / n - rest * rest;
        }
        const A rstd = A(1) / sqrt(square + p.eps);
        if (threadIdx.x == 0) {
            if (centred) means[row] = mean + rest;
            rstds[row] = rstd;
        }
        for_columns(p.columns, [&](int64_t i) {
            A v[1] = {round_if(p, (value(i) - mean - rest) * rstd)};
            if (p.weight) v[0] *= load_one<A>(p.weight, i) + p.offset;
            if (p.bias) v[0] += load_one<A>(p.bias, i);
            activate_all(p.activation, v);
            y[out + i] = from_acc<T>(v[0]);
        });
    }
}

// The gradient before the weight, and the normalised element, at column i of a row.
template <class T, bool centred>
struct PlainGradient {
    using A = acc_t<T>;
    PlainRows x, grad_y;
    const A *means, *rstds;

    __device__ A normal(const NormParams<A>& p, int64_t row, int64_t i) const {
        const A v = x.template operator()<A>(x.index(row), i);
        return (centred ? v - means[row] : v) * rstds[row];
    }
    __device__ A gradient(const NormParams<A>& p, int64_t row, int64_t i, A v) const {
        if (!grad_y.data) return A(0);
        A g[1] = {grad_y.template operator()<A>(grad_y.index(row), i)};
        if (p.activation != Activation::none) {
            A pre[1] = {v};
            if (p.weight) pre[0] *= load_one<A>(p.weight, i) + p.offset;
            if (p.bias) pre[0] += load_one<A>(p.bias, i);
            differentiate_all(p.activation, pre, g);
        }
        return g[0];
    }
};

template <class T, bool centred>
__global__ void __launch_bounds__(kPlainThreads)
    norm_backward_plain(PlainGradient<T, centred> io, PlainRows grad_total, PlainRows dx,
                        NormParams<acc_t<T>> p) {
    using A = acc_t<T>;
    __shared__ BlockScratch<kPlainThreads, 2, A> scratch;
    int turn = 0;
    const A n = static_cast<A>(p.columns);
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const auto weighted = [&](int64_t i, A normal) {
            const A g = io.gradient(p, row, i, round_if(p, normal));
            return p.weight ? g * (load_one<A>(p.weight, i) + p.offset) : g;
        };
        A sums[2] = {0, 0};
        for_columns(p.columns, [&](int64_t i) {
            const A v = io.normal(p, row, i), g = weighted(i, v);
            sums[0] += g;
            sums[1] += g * v;
        });
        block_sum(sums, scratch, turn);
        const A shift = centred ? sums[0] / n : A(0), slope = sums[1] / n, rstd = io.rstds[row];
        const int64_t start = dx.index(row), other = grad_total.index(row);
        for_columns(p.columns, [&](int64_t i) {
            const A v = io.normal(p, row, i);
            A g = (weighted(i, v) - shift - v * slope) * rstd;
            if (grad_total.data) g += grad_total.template operator()<A>(other, i);
            store_one(dx.data, start + i * dx.step, g);
        });
    }
}

// Sums over blocks of rows, one thread a column: partial[block][0] for the weight, [1] for the
// bias.
template <class T, bool centred>
__global__ void __launch_bounds__(kPlainThreads)
    norm_parameters_plain(PlainGradient<T, centred> io, acc_t<T>* partial, NormParams<acc_t<T>> p) {
    using A = acc_t<T>;
    const int64_t i = int64_t{blockIdx.x} * kPlainThreads + threadIdx.x;
    if (i >= p.columns) return;
    A weight = 0, bias = 0;
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const A v = round_if(p, io.normal(p, row, i));
        const A g = io.gradient(p, row, i, v);
        weight += g * v;
        bias += g;
    }
    partial += int64_t{blockIdx.y} * kPlanes<centred> * p.columns + i;
    partial[0] = weight;
    if (centred) partial[p.columns] = bias;
}

}  // namespace fusewright::cuda
