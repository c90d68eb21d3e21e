// The gradients of layer_norm and rms_norm in one pass over the rows, by a grid that stays: every
// block keeps its sums for weight and bias in registers and writes them once.
#pragma once

#include "column_sums.cuh"
#include "norm_plain.cuh"

namespace fusewright::cuda {

// Calls f with the shape for rows of `packs`; false where none is large enough.
template <class F>
bool with_backward_shape(int64_t packs, F&& f) {
    if (packs <= 32 * 2) {
        f(RowShape<32, 2>{});
    } else if (packs <= 64 * 2) {
        f(RowShape<64, 2>{});
    } else if (packs <= 256 * 2) {
        f(RowShape<256, 2>{});
    } else if (packs <= 512 * 2) {
        f(RowShape<512, 2>{});
    } else if (packs <= 512 * 4) {
        f(RowShape<512, 4>{});
    } else {
        return false;
    }
    return true;
}

// Blocks of a shape on a multiprocessor that registers are to suffice for.
template <class Shape>
constexpr int kResidentBlocks = Shape::packs == 2 ? 512 / Shape::block : 1;

// Rows of some tensors on their way into shared memory, where a thread finds again what it asked
// for itself. One row of `kStages` is worked on while the others are on their way.
template <class T, class Shape>
struct RowPipe {
    using Packed = Pack<T, kPack<T>>;
    static constexpr int kStages = Shape::packs == 2 ? 3 : 2;
    Packed* slots;
    RowPacks<Shape, kPack<T>> row;
    int streams;

    static constexpr size_t bytes(int streams) {
        return sizeof(Packed) * kStages * streams * Shape::packs * Shape::block;
    }
    __device__ Packed& slot(int stage, int stream, int k) const {
        return slots[((stage * streams + stream) * Shape::packs + k) * Shape::block + threadIdx.x];
    }
    // Starts a row whose first element for this thread is at `from`; `done` closes what belongs
    // together.
    __device__ void fetch(int stage, int stream, const T* from) const {
        const auto to = static_cast<unsigned>(__cvta_generic_to_shared(&slot(stage, stream, 0)));
        row.each([&](int k, int) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                             to + k * Shape::block * static_cast<unsigned>(sizeof(Packed))),
                         "l"(from + k * Shape::threads * kPack<T>));
        });
    }
    __device__ static void done() { asm volatile("cp.async.commit_group;"); }
    // Waits for the oldest rows.
    __device__ static void wait() {
        asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    }
};

// Where a tensor's next row is fetched from.
template <class T>
struct RowCursor {
    const T* at;
    int64_t step;

    __device__ RowCursor(const T* base, int64_t stride, int64_t row, int64_t rows, int column)
        : at(base + row * stride + column), step(rows * stride) {}
    __device__ const T* next() {
        const T* now = at;
        at += step;
        return now;
    }
};

template <class T>
struct NormBackward {
    const T *x, *grad_y;
    int64_t x_rows, grad_rows, total_rows, dx_rows;  // from row to row
    Untyped grad_total;
    bool piped;  // the gradient of the sum is of x's type, and comes the same way
    const float *mean, *rstd;
    T* dx;           // null where it is not needed
    float* partial;  // null where no parameter's is
};

// Adds a block's sums for its columns, one row of threads after the other, and writes them.
template <class Shape, int N>
__device__ inline void write_sums(const RowPacks<Shape, N>& in_row,
                                  const float (&sums)[Shape::packs][N], float* shared, float* to) {
    const int part = threadIdx.x / Shape::threads;
    if constexpr (Shape::rows > 1) __syncthreads();
    for (int turn = 0; turn < Shape::rows; ++turn) {
        if (part == turn) {
            in_row.each([&](int k, int i) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    float sum = sums[k][j];
                    if (turn > 0) sum += shared[i + j];
                    if (turn == Shape::rows - 1) {
                        to[i + j] = sum;
                    } else {
                        shared[i + j] = sum;
                    }
                }
            });
        }
        if constexpr (Shape::rows > 1) __syncthreads();
    }
}

// g *= the activation's derivative, where v holds the normalised elements.
template <Fused fused, class Weight, class Bias, int packs, int N>
__device__ inline void differentiate_row(const NormParams<float>& p, const Weight& weight,
                                         const Bias& bias, const float (&v)[packs][N],
                                         float (&g)[packs][N]) {
    const float offset = weight_offset(p);
#pragma unroll
    for (int k = 0; k < packs; ++k) {
        float w[N], pre[N];
        weight.get(k, w);
        bias.get(k, pre);
#pragma unroll
        for (int j = 0; j < N; ++j) pre[j] = fmaf(round_if(p, v[k][j]), w[j] + offset, pre[j]);
        dispatch_fused<fused>(p.activation, [&](auto act) {
#pragma unroll
            for (int j = 0; j < N; ++j) g[k][j] *= activate_grad<act.value>(pre[j]);
        });
    }
}

template <class T, bool centred, Fused fused, class Shape>
__global__ void __launch_bounds__(Shape::block, kResidentBlocks<Shape>)
    norm_backward_kernel(const __grid_constant__ NormBackward<T> io,
                         const __grid_constant__ NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    extern __shared__ __align__(16) char bytes[];
    __shared__ BlockScratch<threads, 2, float> scratch;
    int turn = 0;
    using Pipe = RowPipe<T, Shape>;
    const RowPacks<Shape, N> in_row{static_cast<int>(p.columns)};
    const Pipe pipe{reinterpret_cast<typename Pipe::Packed*>(bytes), in_row, io.piped ? 3 : 2};
    const int64_t step = int64_t{gridDim.x} * Shape::rows;
    int64_t row = int64_t{blockIdx.x} * Shape::rows + threadIdx.x / threads, ahead = row;
    RowCursor<T> x(io.x, io.x_rows, row, step, in_row.column(0));
    RowCursor<T> grad_y(io.grad_y, io.grad_rows, row, step, in_row.column(0));
    RowCursor<T> grad_total(static_cast<const T*>(io.grad_total.data), io.total_rows, row, step,
                            in_row.column(0));
    const auto fetch = [&](int stage) {
        if (ahead < p.rows) {
            pipe.fetch(stage, 0, x.next());
            pipe.fetch(stage, 1, grad_y.next());
            if (io.piped) pipe.fetch(stage, 2, grad_total.next());
        }
        Pipe::done();
        ahead += step;
    };
#pragma unroll
    for (int s = 0; s < Pipe::kStages - 1; ++s) fetch(s);
    const RowParameter<T, Shape, fused> weight(p.weight, in_row);
    const RowParameter<T, Shape, fused, false> bias(p.bias, in_row);
    const float offset = weight_offset(p);
    float dweight[packs][N] = {}, dbias[centred ? packs : 1][N] = {};
    const float scale = 1.f / static_cast<float>(p.columns);
    for (int stage = 0; row < p.rows; row += step, stage = (stage + 1) % Pipe::kStages) {
        fetch((stage + Pipe::kStages - 1) % Pipe::kStages);
        const float mean = centred ? io.mean[row] : 0.f, rstd = io.rstd[row];
        Pipe::wait();
        float v[packs][N] = {}, g[packs][N] = {};
        in_row.each([&](int k, int) {
            accumulators(pipe.slot(stage, 0, k), v[k]);
            accumulators(pipe.slot(stage, 1, k), g[k]);
            if constexpr (centred) {
#pragma unroll
                for (int j = 0; j < N; ++j) v[k][j] -= mean;
            }
        });
        float rest = 0;
        if constexpr (centred && kExactMean<T>) {
            float lost[1] = {0};
            for_elements<packs, N>([&](int k, int j) { lost[0] += v[k][j]; });
            block_sum(lost, scratch, turn);
            rest = lost[0] * scale;
        }
        for_elements<packs, N>([&](int k, int j) { v[k][j] = (v[k][j] - rest) * rstd; });
        if constexpr (fused != Fused::none) differentiate_row<fused>(p, weight, bias, v, g);
        if (fused == Fused::any && p.round_first) {
            for_elements<packs, N>(
                [&](int k, int j) { dweight[k][j] += g[k][j] * round_if(p, v[k][j]); });
        } else {
            for_elements<packs, N>([&](int k, int j) { dweight[k][j] += g[k][j] * v[k][j]; });
        }
        float sums[centred ? 2 : 1] = {};  // of g v and g, with the weight
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            float w[N];
            weight.get(k, w);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                if constexpr (centred) dbias[k][j] += g[k][j];
                g[k][j] *= w[j] + offset;
                sums[0] += g[k][j] * v[k][j];
                if constexpr (centred) sums[1] += g[k][j];
            }
        }
        block_sum(sums, scratch, turn);
        const float slope = sums[0] * scale * rstd;
        float shift = 0;
        if constexpr (centred) shift = sums[1] * scale * rstd;
        for_elements<packs, N>(
            [&](int k, int j) { g[k][j] = fmaf(-slope, v[k][j], fmaf(g[k][j], rstd, -shift)); });
        if (io.dx == nullptr) continue;
        T* to = io.dx + row * io.dx_rows;
        const int64_t total = row * io.total_rows;
        in_row.each([&](int k, int i) {
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
    if (io.partial == nullptr) return;
    // partial[block][0] for the weight, [1] for the bias
    float* shared = reinterpret_cast<float*>(bytes);
    float* partial = io.partial + int64_t{blockIdx.x} * 2 * p.columns;
    write_sums(in_row, dweight, shared, partial);
    if constexpr (centred) write_sums(in_row, dbias, shared, partial + p.columns);
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
        const auto finish = [&](const Tensor& partial, int64_t count) {
            const A* sums = data<A>(partial);
            ColumnSum<A> of_weight, of_bias;
            if ((needs & 2) && present(given_weight)) of_weight = {*given_weight, sums};
            if ((needs & 4) && present(given_bias)) of_bias = {*given_bias, sums + in.columns};
            column_sums(launch, of_weight, of_bias, count, 2 * in.columns);
            if (of_weight) dweight = of_weight.result;
            if (of_bias) dbias = of_bias.result;
        };
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kPack<T>;
            bool packs = in.packs(N) && dy && dy->packs(N) && !scattered && in.rows > 0 &&
                         dy->tensor.scalar_type() == x.scalar_type() && (!out || out->packs(N)) &&
                         (!dtotal || (dtotal->packs(N) && !is_double(dtotal->tensor)));
            for (const auto& parameter : {weight, bias}) packs = packs && packs_of(parameter, N);
            const auto run = [&](auto shape, auto fused) {
                using Shape = decltype(shape);
                const auto kernel = norm_backward_kernel<T, centred, fused, Shape>;
                const auto bytes = [&](int streams) { return RowPipe<T, Shape>::bytes(streams); };
                const bool piped = dtotal && dtotal->tensor.scalar_type() == x.scalar_type() &&
                                   bytes(3) <= launch.shared_limit();
                const size_t shared = bytes(piped ? 3 : 2);
                const int64_t grid =
                    std::min<int64_t>(launch.resident(kernel, Shape::block, shared),
                                      ceil_div<int64_t>(in.rows, Shape::rows));
                const Tensor partial =
                    parameters ? fresh(x, {grid * 2 * in.columns}, stat) : none_like(x);
                NormBackward<T> io{};
                io.x = data<const T>(in.tensor), io.x_rows = in.stride();
                io.grad_y = data<const T>(dy->tensor), io.grad_rows = dy->stride();
                if (centred) io.mean = data<const float>(mean);
                io.rstd = data<const float>(rstd);
                if (parameters) io.partial = data<float>(partial);
                if (dtotal) {
                    io.grad_total = Untyped(dtotal->tensor);
                    io.total_rows = dtotal->stride();
                    io.piped = piped;
                }
                if (out) {
                    io.dx = data<T>(out->tensor);
                    io.dx_rows = out->stride();
                }
                launch(kernel, dim3(static_cast<unsigned>(grid)), dim3(Shape::block), shared, io,
                       params);
                if (parameters) finish(partial, grid);
            };
            const auto with_shape = [&](auto fused) {
                return with_backward_shape(in.columns / N, [&](auto shape) { run(shape, fused); });
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
