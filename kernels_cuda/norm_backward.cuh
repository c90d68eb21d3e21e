// The gradients of layer_norm and rms_norm in one pass over the rows, by a grid that stays: every
// block keeps its sums for weight and bias in registers and writes them once.
#pragma once

#include "column_sums.cuh"
#include "norm_plain.cuh"

namespace fusewright::cuda {

template <class T>
struct NormBackward {
    const T *x, *grad_y;
    RowIndex x_rows, grad_rows, total_rows, dx_rows;
    Untyped grad_total;
    const float *mean, *rstd;
    T* dx;           // null where it is not needed
    float* partial;  // null where no parameter's is
};

template <class T, bool centred, bool activated, class Shape>
__global__ void __launch_bounds__(Shape::block)
    norm_backward_kernel(NormBackward<T> io, NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    using Packed = Pack<T, N>;
    __shared__ float scratch[2 * threads / 32];
    __shared__ float shared_sums[Shape::rows > 1 ? threads * packs * N : 1];
    const int lane = threadIdx.x % threads, part = threadIdx.x / threads;
    const int64_t step = int64_t{gridDim.x} * Shape::rows;
    const float n = static_cast<float>(p.columns);
    const auto column = [&](int k) { return (int64_t{k} * threads + lane) * N; };
    const auto load = [&](const T* base, const RowIndex& index, int64_t row, Packed(&into)[packs]) {
        const T* from = base + index(row);
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            if (column(k) < p.columns) {
                into[k] = *reinterpret_cast<const Packed*>(from + column(k));
            }
        }
    };
    float dweight[packs][N] = {}, dbias[centred ? packs : 1][N] = {};
    Packed x[packs], dy[packs], next_x[packs], next_dy[packs];
    int64_t row = int64_t{blockIdx.x} * Shape::rows + part;
    if (row < p.rows) {
        load(io.x, io.x_rows, row, next_x);
        load(io.grad_y, io.grad_rows, row, next_dy);
    }
    for (; row < p.rows; row += step) {
#pragma unroll
        for (int k = 0; k < packs; ++k) x[k] = next_x[k], dy[k] = next_dy[k];
        if (row + step < p.rows) {  // in flight while this row is summed
            load(io.x, io.x_rows, row + step, next_x);
            load(io.grad_y, io.grad_rows, row + step, next_dy);
        }
        const float mean = centred ? io.mean[row] : 0.f, rstd = io.rstd[row];
        float g[packs][N], sums[2] = {0, 0};
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            if (column(k) >= p.columns) continue;
            float w[N], b[N], pre[N];
            if (p.weight) load_pack(p.weight, column(k), w);
            if constexpr (activated) {
                if (p.bias) load_pack(p.bias, column(k), b);
            }
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float v = round_if<T>(p.round_first, (to_acc(x[k][j]) - mean) * rstd);
                g[k][j] = to_acc(dy[k][j]);
                pre[j] = v;
                if constexpr (activated) {
                    if (p.weight) pre[j] *= w[j] + p.offset;
                    if (p.bias) pre[j] += b[j];
                }
            }
            if constexpr (activated) differentiate_all(p.activation, pre, g[k]);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float v = (to_acc(x[k][j]) - mean) * rstd;
                dweight[k][j] += g[k][j] * round_if<T>(p.round_first, v);
                if constexpr (centred) dbias[k][j] += g[k][j];
                if (p.weight) g[k][j] *= w[j] + p.offset;
                sums[0] += g[k][j];
                sums[1] += g[k][j] * v;
            }
        }
        if (io.dx == nullptr) continue;
        block_sum<threads>(sums, scratch);
        const float shift = centred ? sums[0] / n : 0.f, slope = sums[1] / n;
        T* to = io.dx + io.dx_rows(row);
        const int64_t total = io.grad_total ? io.total_rows(row) : 0;
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            if (column(k) >= p.columns) continue;
            float other[N];
            if (io.grad_total) load_pack(io.grad_total, total + column(k), other);
            Packed out;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const float v = (to_acc(x[k][j]) - mean) * rstd;
                float d = (g[k][j] - shift - v * slope) * rstd;
                if (io.grad_total) d += other[j];
                out[j] = from_acc<T>(d);
            }
            *reinterpret_cast<Packed*>(to + column(k)) = out;
        }
    }
    if (io.partial == nullptr) return;
    // partial[block][0] for the weight, [1] for the bias
    const auto write = [&](const auto& sums, int which) {
        float* to = io.partial + (int64_t{blockIdx.x} * 2 + which) * p.columns;
        for (int turn = 0; turn < Shape::rows; ++turn) {
            if (part == turn) {
#pragma unroll
                for (int k = 0; k < packs; ++k) {
                    if (column(k) >= p.columns) continue;
#pragma unroll
                    for (int j = 0; j < N; ++j) {
                        float sum = sums[k][j];
                        if constexpr (Shape::rows > 1) {
                            float& kept = shared_sums[column(k) + j];
                            if (turn > 0) sum += kept;
                            kept = sum;
                        }
                        if (turn == Shape::rows - 1) to[column(k) + j] = sum;
                    }
                }
            }
            if constexpr (Shape::rows > 1) __syncthreads();
        }
    };
    write(dweight, 0);
    if constexpr (centred) write(dbias, 1);
}

// The gradients of x, weight and bias; of rms_norm the last is nothing.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_total, const Tensor& x,
    const std::optional<Tensor>& given_weight, const std::optional<Tensor>& given_bias,
    const Tensor& given_mean, const Tensor& given_rstd, const NormOptions& o, int64_t needs) {
    FW_CHECK(0 < o.norm_dims && o.norm_dims <= x.dim(), o.op, "norm_dims is ", o.norm_dims,
             ", must be from 1 to ", x.dim());
    const Launch launch(x);
    const auto weight = as_contiguous(given_weight), bias = as_contiguous(given_bias);
    const Tensor mean = as_contiguous(given_mean), rstd = as_contiguous(given_rstd);
    const Rows in(x, o.norm_dims);
    const ScalarType stat = acc_dtype(x.scalar_type());
    FW_CHECK(rstd.numel() == in.rows && rstd.scalar_type() == stat &&
                 (!centred || (mean.numel() == in.rows && mean.scalar_type() == stat)),
             o.op, "mean and rstd must have one element a row");
    const auto rows_of = [&](const std::optional<Tensor>& t) {
        FW_CHECK(!present(t) || t->numel() == x.numel(), o.op,
                 "a gradient must have the shape of x");
        return present(t) ? std::optional(Rows(*t, o.norm_dims)) : std::nullopt;
    };
    // a gradient of y that is narrower than x becomes as wide
    const bool widen =
        x.scalar_type() == ScalarType::Float && present(grad_y) && !is_double(grad_y);
    const auto dy = rows_of(widen ? in_dtype(grad_y, ScalarType::Float) : grad_y);
    const auto dtotal = rows_of(grad_total);
    const Tensor dx = needs & 1 ? fresh_like(x) : none_like(x);
    // `dx` has the strides of x, or dense ones where x overlaps itself
    std::optional<Rows> out;
    if (needs & 1) out.emplace(dx, o.norm_dims);
    const bool scattered = out && out->tensor.data_ptr() != dx.data_ptr();
    const bool parameters = ((needs & 2) && present(weight)) || ((needs & 4) && present(bias));
    Tensor dweight = none_like(x), dbias = none_like(x);
    with_native(x.scalar_type(), o.op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const auto params = norm_params<A>(o, in, weight, bias);
        const auto finish = [&](const Tensor& partial, int64_t count) {
            const A* sums = data<A>(partial);
            const int64_t stride = 2 * in.columns;
            if ((needs & 2) && present(given_weight)) {
                dweight = column_sums(launch, *given_weight, sums, count, stride);
            }
            if ((needs & 4) && present(given_bias)) {
                dbias = column_sums(launch, *given_bias, sums + in.columns, count, stride);
            }
        };
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kPack<T>;
            bool packs = in.packs(N) && dy && dy->packs(N) && !scattered && in.rows > 0 &&
                         dy->tensor.scalar_type() == x.scalar_type() && (!out || out->packs(N)) &&
                         (!dtotal || (dtotal->packs(N) && !is_double(dtotal->tensor)));
            for (const auto& parameter : {weight, bias}) packs = packs && packs_of(parameter, N);
            const auto run = [&](auto activated) {
                return with_row_shape(in.columns / N, [&](auto shape) {
                    using Shape = decltype(shape);
                    const auto kernel = norm_backward_kernel<T, centred, activated, Shape>;
                    const int64_t grid = std::min<int64_t>(launch.resident(kernel, Shape::block),
                                                           ceil_div<int64_t>(in.rows, Shape::rows));
                    const Tensor partial =
                        parameters ? fresh(x, {grid * 2 * in.columns}, stat) : none_like(x);
                    NormBackward<T> io{data<const T>(in.tensor),
                                       data<const T>(dy->tensor),
                                       in.index,
                                       dy->index,
                                       {},
                                       {},
                                       {},
                                       centred ? data<const float>(mean) : nullptr,
                                       data<const float>(rstd),
                                       nullptr,
                                       parameters ? data<float>(partial) : nullptr};
                    if (dtotal) {
                        io.grad_total = Untyped(dtotal->tensor);
                        io.total_rows = dtotal->index;
                    }
                    if (out) {
                        io.dx = data<T>(out->tensor);
                        io.dx_rows = out->index;
                    }
                    launch(kernel, dim3(static_cast<unsigned>(grid)), dim3(Shape::block), 0, io,
                           params);
                    if (parameters) finish(partial, grid);
                });
            };
            if (packs && (o.activation == Activation::none ? run(std::false_type{})
                                                           : run(std::true_type{}))) {
                return;
            }
        }
        const PlainGradient<T, centred> io{PlainRows(in), PlainRows(dy),
                                           centred ? data<const A>(mean) : nullptr,
                                           data<const A>(rstd)};
        if (out) {
            const int64_t grid = std::min<int64_t>(in.rows, launch.processors() * 8);
            launch(norm_backward_plain<T, centred>, dim3(static_cast<unsigned>(grid)),
                   dim3(kPlainThreads), 0, io, PlainRows(dtotal), PlainRows(out), params);
            if (scattered) torch::stable::copy_(const_cast<Tensor&>(dx), out->tensor);
        }
        if (parameters) {
            const int64_t count = std::clamp<int64_t>(in.rows / 16, 1, 256);
            const Tensor partial = fresh(x, {count * 2 * in.columns}, stat);
            const int64_t grid = ceil_div<int64_t>(in.columns, kPlainThreads);
            launch(norm_parameters_plain<T, centred>,
                   dim3(static_cast<unsigned>(grid), static_cast<unsigned>(count)),
                   dim3(kPlainThreads), 0, io, data<A>(partial), params);
            finish(partial, count);
        }
    });
    return {dx, dweight, dbias};
}

}  // namespace fusewright::cuda
