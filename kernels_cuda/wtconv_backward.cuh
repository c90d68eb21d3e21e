// The gradients of the wavelet convolution.
#pragma once

#include "wtconv_correlate.cuh"
#include "wtconv_forward.cuh"
#include "wtconv_tiles_grads.cuh"

namespace fusewright::cuda {

// The gradients of the parameters, dense tensors until the end.
struct WtResults {
    Tensor base_weight, base_bias, base_scale;
    std::vector<Tensor> weights, scales;

    WtGradients of(int from, int count, bool base) const {
        WtGradients g;
        const auto place = [](const Tensor& t) { return t.numel() == 0 ? Untyped() : Untyped(t); };
        if (base) {
            g.base_weight = place(base_weight);
            g.base_bias = place(base_bias);
            g.base_scale = place(base_scale);
        }
        for (int l = 0; l < count; ++l) {
            g.weights[l] = place(weights[from + l]);
            g.scales[l] = place(scales[from + l]);
        }
        return g;
    }
};

template <class A, int dims>
void correlate_run(const Launch& launch, const WtCall<dims>& call, const WtImage& x,
                   const WtImage& grad, int64_t height, int64_t width, int from, bool base,
                   const WtResults& results);

// Adds what the blocks found, `count` levels from `from` on.
template <class A, int dims>
void sum_gradients(const Launch& launch, const WtCall<dims>& call, const Tensor& partial, int from,
                   int count, bool base, const WtResults& results) {
    const int filters = static_cast<int>(partial.size(2));
    const int64_t blocks = ceil_div(call.channels * filters, int64_t{kWtSumWarps});
    launch(wtconv_gradients_kernel<A>, dim3(static_cast<unsigned>(blocks)), dim3(32 * kWtSumWarps),
           0, data<const A>(partial), partial.size(0), call.channels, filters,
           static_cast<int>(partial.size(3)) - 1, 1 << dims, base,
           call.parameters(from, count, base, false), results.of(from, count, base));
}

// By tiles; false where there are none.
inline bool correlate_tiles(const Launch& launch, const WtCall<2>& call, const WtImage& x,
                            const WtImage& grad, int64_t height, int64_t width, int from, bool base,
                            const WtResults& results) {
    TilePlan plan;
    const int levels = call.levels - from;
    if (!tile_plan(plan, launch, call, x, grad, height, width, levels, base, true)) return false;
    if (plan.levels < levels) {
        const TileLows low_x(launch, call, x, height, width, plan.levels);
        const TileLows low_grad(launch, call, grad, height, width, plan.levels);
        correlate_run<float, 2>(launch, call, low_x.image(), low_grad.image(), low_x.height(),
                                low_x.width(), from + plan.levels, false, results);
    }
    with_tile_kernel(call.kernel, [&](auto kernel) {
        const auto run = wtconv_tile_grads_kernel<kernel>;
        const size_t shared = plan.elements * sizeof(float);
        TileGrads p{tile_image(x, width), tile_image(grad, width), nullptr, 1};
        p.chunks = wt_chunks(int64_t{plan.groups()} * plan.tiles(), plan.n,
                             launch.resident(run, plan.threads, shared), 2);
        const Tensor partial = fresh(
            call.base_weight,
            {int64_t{p.chunks} * plan.tiles(), call.channels, plan.filters, kernel * kernel + 1},
            ScalarType::Float);
        p.partial = data<float>(partial);
        launch(run, tile_grid(plan, p.chunks), dim3(plan.threads), shared, plan, p);
        sum_gradients<float, 2>(launch, call, partial, from, plan.levels, base, results);
    });
    return true;
}

template <class A, int dims>
void correlate_run(const Launch& launch, const WtCall<dims>& call, const WtImage& x,
                   const WtImage& grad, int64_t height, int64_t width, int from, bool base,
                   const WtResults& results) {
    const int levels = call.levels - from;
    if (!base && levels == 0) return;
    if constexpr (dims == 2 && std::is_same_v<A, float>) {
        if (correlate_tiles(launch, call, x, grad, height, width, from, base, results)) return;
    }
    WtPlan plan;
    const int64_t n = dims == 2 ? call.n : 1, rows = dims == 2 ? height : call.n;
    FW_CHECK(make_plan(plan, n, call.channels, rows, width, dims, call.kernel, levels, false, true,
                       x.packs && grad.packs ? 4 : 1, sizeof(A), launch.shared_limit()),
             call.op, "kernel size ", call.kernel, " needs more shared memory than the GPU has");
    if (plan.levels < levels) {
        const WtLow<A, dims> low_x(launch, call, x, height, width);
        const WtLow<A, dims> low_grad(launch, call, grad, height, width);
        correlate_run<A, dims>(launch, call, low_x.image, low_grad.image, low_x.height, low_x.width,
                               from + plan.levels, false, results);
    }
    if (!base && plan.levels == 0) return;
    with_wt_kernel<A, dims>(call.kernel, [&](auto kernel) {
        void (*run)(WtPlan, WtCorrelate<A>) = wtconv_correlate_plain<A, dims>;
        if constexpr (kernel > 0) run = wtconv_correlate_kernel<A, kernel, dims>;
        const size_t shared = plan.elements * sizeof(A);
        WtCorrelate<A> p{x, grad, nullptr, 1};
        p.chunks = wt_chunks(plan.channels * plan.tiles(), plan.groups(),
                             launch.resident(run, kWtThreads, shared), 4);
        const ScalarType dtype = sizeof(A) == 8 ? ScalarType::Double : ScalarType::Float;
        const Tensor partial = fresh(
            call.base_weight,
            {int64_t{p.chunks} * plan.tiles(), call.channels, plan.filters(), plan.taps() + 1},
            dtype);
        p.partial = data<A>(partial);
        launch(run, wt_grid(plan, p.chunks), dim3(kWtThreads), shared, plan, p);
        sum_gradients<A, dims>(launch, call, partial, from, plan.levels, base, results);
    });
}

template <int dims>
std::tuple<Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>>
wtconv_backward(const char* op, const Tensor& grad, const Tensor& x, const Tensor& base_weight,
                const std::optional<Tensor>& base_bias, const Tensor& base_scale,
                const std::vector<Tensor>& weights, const std::vector<Tensor>& scales,
                int64_t needs) {
    const Launch launch(x);
    const WtCall<dims> call(op, x, base_weight, base_bias, base_scale, weights, scales);
    FW_CHECK(shape_of(grad) == shape_of(x), op, "grad_y must have the shape of x");
    const Tensor dx = needs & 1 ? fresh_like(x) : none_like(x);
    // A dense tensor for the kernels, in the end with the strides of its parameter.
    const auto dense = [&](int bit, const Tensor& like) {
        return needs >> bit & 1 ? fresh(like, shape_of(like)) : none_like(x);
    };
    WtResults results{dense(1, base_weight),
                      present(base_bias) ? dense(2, *base_bias) : none_like(x),
                      dense(3, base_scale),
                      {},
                      {}};
    for (const Tensor& t : weights) results.weights.push_back(dense(4, t));
    for (const Tensor& t : scales) results.scales.push_back(dense(5, t));
    if (x.numel() > 0) {
        with_acc(x.scalar_type(), op, [&](auto acc) {
            using A = typename decltype(acc)::type;
            const WtImage from = image_of<dims>(grad);
            if (needs & 1) {
                wtconv_run<A, dims>(launch, call, from, call.height, call.width, image_of<dims>(dx),
                                    0, true, true);
            }
            if (needs & ~int64_t{1}) {
                correlate_run<A, dims>(launch, call, image_of<dims>(x), from, call.height,
                                       call.width, 0, true, results);
            }
        });
    }
    const auto like = [&](const Tensor& parameter, const Tensor& value) {
        if (value.numel() == 0 && parameter.numel() != 0) return value;
        Tensor result = value;
        if (x.numel() == 0) torch::stable::zero_(result);
        if (parameter.is_contiguous()) return result;
        Tensor strided = fresh_like(parameter);
        torch::stable::copy_(strided, result);
        return strided;
    };
    std::vector<Tensor> dweights, dscales;
    for (int l = 0; l < call.levels; ++l) {
        dweights.push_back(like(weights[l], results.weights[l]));
        dscales.push_back(like(scales[l], results.scales[l]));
    }
    return {dx,
            like(base_weight, results.base_weight),
            present(base_bias) ? like(*base_bias, results.base_bias) : none_like(x),
            like(base_scale, results.base_scale),
            dweights,
            dscales};
}

}  // namespace fusewright::cuda
