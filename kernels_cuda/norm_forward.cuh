// The forward of layer_norm and rms_norm: a block or a warp has a row, all of whose loads are in
// flight at once. Such short blocks, of which the device picks the next as one ends, come closer to
// the speed of a copy than a grid that stays, and so do plain loads and stores than hints.
#pragma once

#include "norm_plain.cuh"

namespace fusewright::cuda {

template <class T>
struct NormForward {
    const T* x;
    int64_t x_rows, residual_rows;  // from row to row
    Untyped residual, total;
    T* y;
    float *mean, *rstd;
};

// Two warps for a row of 1024 are faster with one sum over it, one warp is with two.
template <bool centred>
using ForwardShapes =
    RowShapes<RowShape<32, 2, 4>, std::conditional_t<centred, RowShape<32, 4, 4>, RowShape<64, 2>>,
              RowShape<128, 4>, RowShape<256, 4>, RowShape<512, 4>>;

// Whether a row stays packed, and is unpacked again behind its sum: in so few registers that 4096
// rows of 1024 elements are resident at once.
template <class Shape, bool centred, Fused fused>
constexpr bool kStaysPacked = !centred && fused == Fused::none && Shape::threads == 64;

// Blocks of a shape on a multiprocessor that registers are to suffice for.
template <class Shape, bool centred, Fused fused>
constexpr int kForwardBlocks = kStaysPacked<Shape, centred, fused> ? 2048 / Shape::block
                               : Shape::block >= 512 ? 1
                                                     : (centred ? 768 : 896) / Shape::block;

// v = the sum with the residual, in its type R; what is normalised is the sum that is stored,
// rounding included. Where R is T, x becomes that sum.
template <class R, class T, class Row, int packs, int N>
__device__ inline void add_residual(const NormForward<T>& io, const Row& in_row, int64_t row,
                                    Pack<T, N> (&x)[packs], float (&v)[packs][N]) {
    const R* from = static_cast<const R*>(io.residual.data) + row * io.residual_rows;
    R* total = static_cast<R*>(io.total.data) + row * in_row.columns;
    Pack<R, N> sums[packs];
    in_row.each([&](int k, int i) { sums[k] = *reinterpret_cast<const Pack<R, N>*>(from + i); });
    in_row.each([&](int k, int i) {
        float other[N];
        accumulators(x[k], v[k]);
        accumulators(sums[k], other);
#pragma unroll
        for (int j = 0; j < N; ++j) v[k][j] += other[j];
        sums[k] = pack_of<R>(v[k]);
        accumulators(sums[k], v[k]);
        *reinterpret_cast<Pack<R, N>*>(total + i) = sums[k];
        if constexpr (std::is_same_v<R, T>) x[k] = sums[k];
    });
}

// `with_residual` says again what `io` says, where a row stays packed: a branch between its loads
// would keep the weight's waiting.
template <class T, bool centred, Fused fused, class Shape, bool with_residual>
__global__ void __launch_bounds__(Shape::block, kForwardBlocks<Shape, centred, fused>)
    norm_forward_kernel(const __grid_constant__ NormForward<T> io,
                        const __grid_constant__ NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    __shared__ BlockScratch<threads, 2, float> scratch;
    int turn = 0;
    const RowPacks<Shape, N> in_row{static_cast<int>(p.columns)};
    const int64_t row = Shape::of_thread(blockIdx.x);
    if (Shape::rows > 1 && row >= p.rows) return;
    const T* from = io.x + row * io.x_rows;
    Pack<T, N> x[packs];
    in_row.each([&](int k, int i) { x[k] = *reinterpret_cast<const Pack<T, N>*>(from + i); });
    constexpr bool packed = kStaysPacked<Shape, centred, fused>;
    RowParameter<T, Shape, fused, 1> weights(p.weight);
    RowParameter<T, Shape, fused, 0> biases(p.bias);
    if constexpr (!packed) weights.read(in_row);
    if constexpr (centred) biases.read(in_row);
    float v[packs][N];
    if constexpr (packed) {  // the weight waits until the residual's registers are free
        if constexpr (with_residual) {
            float unpacked[packs][N];
            add_residual<T>(io, in_row, row, x, unpacked);
        }
        weights.read(in_row);
    } else if (!io.residual) {
        in_row.each([&](int k, int) { accumulators(x[k], v[k]); });
    } else if constexpr (fused == Fused::any) {
        with_element<false>(io.residual.dtype, [&](auto* type) {
            add_residual<std::remove_pointer_t<decltype(type)>>(io, in_row, row, x, v);
        });
    } else {
        add_residual<T>(io, in_row, row, x, v);
    }
    const float scale = 1.f / static_cast<float>(in_row.columns);
    float sums[1] = {0};
    in_row.each([&](int k, int) {
        if constexpr (packed) accumulators(x[k], v[k]);
#pragma unroll
        for (int j = 0; j < N; ++j) sums[0] += centred ? v[k][j] : v[k][j] * v[k][j];
    });
    block_sum(sums, scratch, turn);
    float square = sums[0] * scale, rest = 0;
    if constexpr (centred) {
        const float mean = square;
        float moments[kExactMean<T> ? 2 : 1] = {};
        in_row.each([&](int k, int) {
#pragma unroll
            for (int j = 0; j < N; ++j) {
                v[k][j] -= mean;
                moments[0] += v[k][j] * v[k][j];
                if constexpr (kExactMean<T>) moments[1] += v[k][j];
            }
        });
        block_sum(moments, scratch, turn);
        if constexpr (kExactMean<T>) rest = moments[1] * scale;
        square = moments[0] * scale - rest * rest;
        if (Shape::lane() == 0) io.mean[row] = mean + rest;
    }
    const float rstd = rsqrtf(square + p.eps), offset = weight_offset<centred>(p);
    if (Shape::lane() == 0) io.rstd[row] = rstd;
    T* y = io.y + row * p.columns;
    in_row.each([&](int k, int i) {
        float w[N], b[N] = {};
        weights.get(k, i, w);
        if constexpr (centred) biases.get(k, i, b);
        if constexpr (packed) {
            forget(x[k]);
            accumulators(x[k], v[k]);
        }
#pragma unroll
        for (int j = 0; j < N; ++j) {
            v[k][j] = (v[k][j] - rest) * rstd;
            if (fused == Fused::any && p.round_first) v[k][j] = to_acc(from_acc<T>(v[k][j]));
            v[k][j] = fmaf(v[k][j], centred ? w[j] : w[j] + offset, b[j]);
        }
        dispatch_fused<fused>(p.activation, [&](auto act) {
#pragma unroll
            for (int j = 0; j < N; ++j) v[k][j] = activate<act.value>(v[k][j]);
        });
        *reinterpret_cast<Pack<T, N>*>(y + i) = pack_of<T>(v[k]);
    });
}

// y, the sum with the residual (or nothing), mean and rstd by row.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_forward(const Tensor& x,
                                                        const std::optional<Tensor>& given_weight,
                                                        const std::optional<Tensor>& given_bias,
                                                        const std::optional<Tensor>& residual,
                                                        const NormOptions& o) {
    const auto weight = as_contiguous(given_weight), bias = as_contiguous(given_bias);
    FW_CHECK(0 < o.norm_dims && o.norm_dims <= x.dim(), o.op, "norm_dims is ", o.norm_dims,
             ", must be from 1 to ", x.dim());
    check_shape(residual, x.sizes(), o.op, "residual");
    const Launch launch(x);
    const std::vector<int64_t> shape = shape_of(x);
    const std::vector<int64_t> lead(shape.begin(), shape.end() - o.norm_dims);
    const Tensor y = fresh(x, shape);
    const Tensor total = present(residual) ? fresh(*residual, shape) : none_like(x);
    const ScalarType stat = acc_dtype(x.scalar_type());
    const Tensor mean = centred ? fresh(x, lead, stat) : none_like(x);
    const Tensor rstd = fresh(x, lead, stat);
    const Rows in(x, o.norm_dims);
    const auto other =
        present(residual) ? std::optional(Rows(*residual, o.norm_dims)) : std::nullopt;
    with_native(x.scalar_type(), o.op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const auto params = norm_params<A>(o, in, weight, bias, x.scalar_type());
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kPack<T>;
            bool packs = in.packs(N) && in.rows < int64_t{1} << 31 &&
                         (!other || (other->packs(N) && !is_double(*residual)));
            for (const auto& parameter : {weight, bias}) packs = packs && packs_of(parameter, N);
            NormForward<T> io{};
            io.x = data<const T>(in.tensor), io.x_rows = in.stride();
            io.y = data<T>(y), io.rstd = data<float>(rstd);
            if (other) {
                io.residual = Untyped(other->tensor);
                io.residual_rows = other->stride();
                io.total = Untyped(total);
            }
            if (centred) io.mean = data<float>(mean);
            const auto run = [&](auto shape, auto fused) {
                using Shape = decltype(shape);
                auto kernel = norm_forward_kernel<T, centred, fused, Shape, true>;
                if constexpr (kStaysPacked<Shape, centred, fused>) {
                    if (!other) kernel = norm_forward_kernel<T, centred, fused, Shape, false>;
                }
                launch(kernel, dim3(static_cast<unsigned>(ceil_div<int64_t>(in.rows, Shape::rows))),
                       dim3(Shape::block), 0, io, params);
            };
            const auto with_shape = [&](auto fused) {
                return ForwardShapes<centred>::with(in.columns / N,
                                                    [&](auto shape) { run(shape, fused); });
            };
            if (packs && with_fused(o, x.scalar_type(), {weight, bias, residual}, with_shape))
                return;
        }
        const int64_t grid = std::min<int64_t>(in.rows, launch.processors() * 8);
        launch(norm_forward_plain<T, centred>, dim3(static_cast<unsigned>(grid)),
               dim3(kPlainThreads), 0, PlainRows(in), PlainRows(other), Untyped(total), data<T>(y),
               centred ? data<A>(mean) : nullptr, data<A>(rstd), params);
    });
    return {y, total, mean, rstd};
}

}  // namespace fusewright::cuda
