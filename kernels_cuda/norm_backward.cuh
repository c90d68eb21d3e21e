// The gradients of layer_norm and rms_norm in one pass over the rows, by a grid that stays: every
// block keeps its sums for weight and bias in registers and writes them once. Another kernel adds
// them up.
#pragma once

#include "column_sums.cuh"
#include "norm_finish.cuh"
#include "norm_plain.cuh"

namespace fusewright::cuda {

using BackwardShapes = RowShapes<RowShape<32, 2, 8>, RowShape<32, 4, 8>, RowShape<256, 2>,
                                 RowShape<512, 2>, RowShape<512, 4>>;

// Blocks of a shape on a multiprocessor. More of them, with more rows on their way at once, find
// the memory slower.
template <class Shape>
constexpr int kBackwardBlocks = Shape::rows > 1 ? 1 : 512 / Shape::block;

// Adds a block's sums for its columns and writes them; `shared` has room for all its rows.
template <class Shape, int N>
__device__ inline void write_sums(const RowPacks<Shape, N>& in_row,
                                  const float (&sums)[Shape::packs][N], float* shared,
                                  const StripSums& to, int plane) {
    const int block = static_cast<int>(blockIdx.x);
    const int row = Shape::rows == 1 ? 0 : static_cast<int>(threadIdx.x) / Shape::threads;
    in_row.each([&](int k, int i) {
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const float4 sum{sums[k][j], sums[k][j + 1], sums[k][j + 2], sums[k][j + 3]};
            if constexpr (Shape::rows == 1) {
                store_sum(to.at(block, plane, i + j), sum);
            } else {
                *reinterpret_cast<float4*>(shared + row * in_row.columns + i + j) = sum;
            }
        }
    });
    if constexpr (Shape::rows > 1) {
        __syncthreads();
        for (int i = 4 * threadIdx.x; i < in_row.columns; i += 4 * Shape::block) {
            float4 sum{};
#pragma unroll
            for (int row = 0; row < Shape::rows; ++row) {
                add_to(sum, *reinterpret_cast<const float4*>(shared + row * in_row.columns + i));
            }
            store_sum(to.at(block, plane, i), sum);
        }
        __syncthreads();
    }
}

template <class T, bool centred, Fused fused, class Shape>
__global__ void __launch_bounds__(Shape::block, kBackwardBlocks<Shape>)
    norm_backward_kernel(const __grid_constant__ NormBackward<T> io,
                         const __grid_constant__ NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    extern __shared__ __align__(16) char bytes[];
    __shared__ BlockScratch<threads, 2, float> scratch;
    int turn = 0;
    let_next_begin();  // where its blocks find room they learn what they can before they wait
    using Pipe = RowPipe<T, Shape>;
    const RowPacks<Shape, N> in_row{static_cast<int>(p.columns)};
    const Pipe pipe{reinterpret_cast<typename Pipe::Packed*>(bytes), in_row, io.piped ? 3 : 2};
    const int step = static_cast<int>(gridDim.x) * Shape::rows;
    int64_t row = int64_t{blockIdx.x} * Shape::rows + threadIdx.x / threads;
    // a row's statistics are asked for one row ahead, before what is fetched then: behind the rows
    // on their way they would come last, and the row would wait for them
    float next_mean = 0, next_rstd = 0;
    const auto ask = [&](int64_t row) {
        if (row >= p.rows) return;
        if constexpr (centred) next_mean = io.mean[row];
        next_rstd = io.rstd[row];
    };
    ask(row);
    const auto fetch = [&](int stage, int64_t row) {
        if (row < p.rows) fetch_row(pipe, io, stage, row);
        Pipe::done();
    };
    constexpr int ahead = Pipe::kStages - 1;
#pragma unroll
    for (int stage = 0; stage < ahead; ++stage) fetch(stage, row + stage * step);
    RowParameter<T, Shape, fused, 1> weights(p.weight, in_row);
    RowParameter<T, Shape, fused, 0> biases(p.bias, in_row);
    const float offset = weight_offset<centred>(p);
    float dweight[packs][N] = {}, dbias[centred ? packs : 1][N] = {};
    const float scale = 1.f / static_cast<float>(p.columns);
    for (int stage = 0; row < p.rows; row += step, stage = (stage + 1) % Pipe::kStages) {
        const float mean = next_mean, rstd = next_rstd;
        ask(row + step);
        fetch((stage + ahead) % Pipe::kStages, row + ahead * step);
        Pipe::wait();
        float v[packs][N], g[packs][N];
        in_row.each([&](int k, int) { accumulators(pipe.slot(stage, 0, k), v[k]); });
        float rest = 0;
        if constexpr (centred && kExactMean<T>) {
            float lost[1] = {0};
            in_row.each([&](int k, int) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    v[k][j] -= mean;
                    lost[0] += v[k][j];
                }
            });
            block_sum(lost, scratch, turn);
            rest = lost[0] * scale;
        }
        const float start = (kExactMean<T> ? rest : mean) * -rstd;
        float sums[kPlanes<centred>] = {};  // of g v and g, with the weight
        in_row.each([&](int k, int i) {
            float w[N];
            accumulators(pipe.slot(stage, 1, k), g[k]);
            weights.get(k, i, w);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                v[k][j] = centred ? fmaf(v[k][j], rstd, start) : v[k][j] * rstd;
                if constexpr (!centred) w[j] += offset;
            }
            if constexpr (fused != Fused::none) {
                float b[N];
                biases.get(k, i, b);
                differentiate<fused>(p, v[k], w, b, g[k]);
            }
#pragma unroll
            for (int j = 0; j < N; ++j) {
                dweight[k][j] += g[k][j] * (fused == Fused::any ? round_if(p, v[k][j]) : v[k][j]);
                if constexpr (centred) dbias[k][j] += g[k][j];
                g[k][j] *= w[j];
                sums[0] += g[k][j] * v[k][j];
                if constexpr (centred) sums[1] += g[k][j];
            }
        });
        block_sum(sums, scratch, turn);
        if (row >= io.sums.first_late) continue;
        const float slope = sums[0] * scale * rstd;
        const float shift = centred ? sums[1] * scale * rstd : 0.f;
        T* to = io.dx + row * io.dx_rows;
        const int64_t total = row * io.total_rows;
        in_row.each([&](int k, int i) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                g[k][j] = fmaf(-slope, v[k][j], fmaf(g[k][j], rstd, -shift));
            }
            if (io.grad_total) {
                float other[N];
                if (io.piped) {
                    accumulators(pipe.slot(stage, 2, k), other);
                } else {
                    load_pack(io.grad_total, total + i, other);
                }
#pragma unroll
                for (int j = 0; j < N; ++j) g[k][j] += other[j];
            }
            *reinterpret_cast<Pack<T, N>*>(to + i) = pack_of<T>(g[k]);
        });
    }
    if (io.sums.data == nullptr) return;
    __syncthreads();
    float* shared = reinterpret_cast<float*>(bytes);
    write_sums(in_row, dweight, shared, io.sums, 0);
    if constexpr (centred) write_sums(in_row, dbias, shared, io.sums, 1);
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
        check_shape(t, x.sizes(), o.op, "a gradient");
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
        const auto params = norm_params<A>(
            o, in, weight, bias, present(grad_y) ? grad_y->scalar_type() : x.scalar_type());
        ColumnSum<A> of_weight, of_bias;
        if ((needs & 2) && present(given_weight)) {
            of_weight = ColumnSum<A>(*given_weight);
            dweight = of_weight.result;
        }
        if ((needs & 4) && present(given_bias)) {
            of_bias = ColumnSum<A>(*given_bias);
            dbias = of_bias.result;
        }
        // sums of `count` blocks, one after the other
        const int64_t sums_a_block = kPlanes<centred> * in.columns;
        const auto add_up = [&](const A* sums, int64_t count) {
            of_weight.partial = sums, of_bias.partial = sums + in.columns;
            column_sums(launch, of_weight, of_bias, count, sums_a_block);
        };
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kPack<T>;
            bool packs = in.packs(N) && dy && dy->packs(N) && !scattered && in.rows > 0 &&
                         dy->tensor.scalar_type() == x.scalar_type() && (!out || out->packs(N)) &&
                         (!dtotal || (dtotal->packs(N) && !is_double(dtotal->tensor)));
            for (const auto& parameter : {weight, bias}) packs = packs && packs_of(parameter, N);
            // the longest rows have no room where a block has 99 KiB (8.6, 8.9, 12.0)
            const size_t limit = launch.shared_limit() - 1024;  // what is not dynamic
            const int processors = launch.processors();
            BackwardShapes::with(in.columns / N, [&](auto shape) {
                packs = packs && RowPipe<T, decltype(shape)>::bytes(2) <= limit;
            });
            const auto run = [&](auto shape, auto fused) {
                using Shape = decltype(shape);
                const auto kernel = norm_backward_kernel<T, centred, fused, Shape>;
                const auto bytes = [&](int streams) { return RowPipe<T, Shape>::bytes(streams); };
                const bool piped =
                    dtotal && dtotal->tensor.scalar_type() == x.scalar_type() && bytes(3) <= limit;
                const size_t shared = bytes(piped ? 3 : 2);
                const int64_t resident = std::min(launch.resident(kernel, Shape::block, shared),
                                                  kBackwardBlocks<Shape> * processors);
                // as few as take the same number of turns, each with its partial sums
                const int64_t turns = ceil_div<int64_t>(in.rows, Shape::rows * resident);
                const int64_t grid = ceil_div<int64_t>(in.rows, Shape::rows * turns);
                NormBackward<T> io{};
                io.x = data<const T>(in.tensor), io.x_rows = in.stride();
                io.grad_y = data<const T>(dy->tensor), io.grad_rows = dy->stride();
                if (centred) io.mean = data<const float>(mean);
                io.rstd = data<const float>(rstd);
                if (dtotal) {
                    io.grad_total = Untyped(dtotal->tensor);
                    io.total_rows = dtotal->stride();
                    io.piped = piped;
                }
                if (out) {
                    io.dx = data<T>(out->tensor);
                    io.dx_rows = out->stride();
                }
                // with a gradient of the sum PyTorch's own formulas hold a tensor more
                const bool inside = parameters && out && out->stride() == in.columns && !dtotal;
                io.sums = strip_sums(in.rows, in.columns, inside ? in.columns * sizeof(T) / 4 : 0,
                                     grid, kPlanes<centred>, kFinishBlocks<Shape> * processors);
                std::optional<Tensor> own;
                if (io.sums.late > 0) {
                    T* first = io.dx + io.sums.first_late * io.dx_rows;
                    io.sums.data = reinterpret_cast<float*>(first);
                } else if (parameters) {
                    own = fresh(x, {grid * sums_a_block}, stat);
                    io.sums.data = data<float>(own);
                }
                if (!out) io.sums.first_late = 0;
                launch(kernel, dim3(static_cast<unsigned>(grid)), dim3(Shape::block), shared, io,
                       params);
                if (io.sums.late > 0) {
                    norm_finish<centred, fused, Shape>(launch, io, params, limit, of_weight.out(),
                                                       of_bias.out());
                    of_weight.finish(), of_bias.finish();
                } else if (own) {
                    add_up(io.sums.data, grid);
                }
            };
            const auto with_shape = [&](auto fused) {
                return BackwardShapes::with(in.columns / N, [&](auto shape) { run(shape, fused); });
            };
            if (packs && with_fused(o, x.scalar_type(), {weight, bias}, with_shape)) return;
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
            const Tensor partial = fresh(x, {count * sums_a_block}, stat);
            const int64_t grid = ceil_div<int64_t>(in.columns, kPlainThreads);
            launch(norm_parameters_plain<T, centred>,
                   dim3(static_cast<unsigned>(grid), static_cast<unsigned>(count)),
                   dim3(kPlainThreads), 0, io, data<A>(partial), params);
            add_up(data<A>(partial), count);
        }
    });
    return {dx, dweight, dbias};
}

}  // namespace fusewright::cuda
