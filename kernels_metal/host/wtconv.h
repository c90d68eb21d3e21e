// The wavelet convolutions: what plan.h lays out as steps, from the deepest levels to the first.
#pragma once

#include "host/dtype.h"
#include "host/encode.h"

namespace fusewright::metal {

using OptionalTensor = std::optional<Tensor>;

// The checked arguments of a forward or backward.
template <int dims>
struct WtCall {
    static constexpr int bands = 1 << dims;

    const char* op;
    WtShape shape;
    Tensor base_weight, base_scale;
    OptionalTensor base_bias;
    std::vector<Tensor> weights, scales;

    WtCall(const char* name, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
           const Tensor& scale, const std::vector<Tensor>& wavelet_weights,
           const std::vector<Tensor>& wavelet_scales)
        : op(name), base_weight(weight), base_scale(scale), base_bias(bias) {
        check_rank(x, dims + 2, op, "x");
        check_rank(weight, dims + 2, op, "base_weight");
        const int64_t channels = x.size(1), kernel = weight.size(dims + 1);
        shape = {dims,
                 x.size(0),
                 channels,
                 dims == 2 ? x.size(2) : 1,
                 x.size(dims + 1),
                 kernel,
                 static_cast<int>(wavelet_weights.size())};
        std::vector<int64_t> filters(dims + 2, std::max<int64_t>(kernel, 1));
        filters[0] = channels, filters[1] = 1;
        check_shape(weight, filters, op, "base_weight");
        const auto one_each = [&](const OptionalTensor& t, int64_t n, const char* what) {
            FW_CHECK(!present(t) || t->numel() == n, op, what, ".numel() is ", t->numel(),
                     ", must be ", n);
        };
        one_each(bias, channels, "base_bias");
        one_each(scale, channels, "base_scale");
        FW_CHECK(wavelet_scales.size() == wavelet_weights.size(), op, "len(wavelet_scales) is ",
                 wavelet_scales.size(), ", must be ", wavelet_weights.size(),
                 " as wavelet_weights");
        filters[0] *= bands;
        for (size_t l = 0; l < wavelet_weights.size(); ++l) {
            check_shape(wavelet_weights[l], filters, op, "wavelet_weights[i]");
            one_each(wavelet_scales[l], bands * channels, "wavelet_scales[i]");
            weights.push_back(as_contiguous(wavelet_weights[l]));
            scales.push_back(as_contiguous(wavelet_scales[l]));
        }
        base_weight = as_contiguous(weight), base_scale = as_contiguous(scale);
        base_bias = as_contiguous(bias);
        suffix(x, op);  // of another dtype there is no kernel
    }

    std::string kernel(const char* part, const Tensor& t) const {
        return op + std::string(part) + suffix(t, op);
    }

    std::vector<int64_t> image_of(const FwWtArgs& a) const {
        std::vector<int64_t> sizes{a.n, a.channels};
        if (dims == 2) sizes.push_back(a.height);
        sizes.push_back(a.width);
        return sizes;
    }

    // The images that the steps work on: `x`, then low bands of it, still to be made.
    std::vector<Tensor> images(const Tensor& x, const std::vector<WtStep>& steps) const {
        std::vector<Tensor> found{x};
        for (size_t k = 1; k < steps.size(); ++k) {
            found.push_back(fresh(x, image_of(steps[k].args), ScalarType::Float));
        }
        return found;
    }

    void make_low_bands(const Encoder& run, const std::vector<Tensor>& images) const {
        for (size_t k = 0; k + 1 < images.size(); ++k) {
            const Tensor& t = images[k];
            const int64_t height = dims == 2 ? t.size(2) : 1;
            const FwHaarArgs args{t.size(0) * t.size(1),
                                  t.size(1),
                                  height,
                                  t.size(dims + 1),
                                  t.stride(0),
                                  t.stride(1),
                                  dims == 2 ? t.stride(2) : 0,
                                  t.stride(dims + 1)};
            run(kernel("_low", t), haar_dispatch(args), {t, images[k + 1]}, args);
        }
    }

    // What a step's kernels are told of its tensors.
    FwWtArgs args_of(const WtStep& step, const Tensor& x, const Tensor& y) const {
        FwWtArgs a = step.args;
        a.x_n = x.stride(0), a.x_c = x.stride(1);
        a.x_h = dims == 2 ? x.stride(2) : 0, a.x_w = x.stride(dims + 1);
        a.y_n = y.stride(0), a.y_c = y.stride(1);
        a.y_h = dims == 2 ? y.stride(2) : 0, a.y_w = y.stride(dims + 1);
        a.base_weight_dtype = dtype_of(base_weight, op),
        a.base_scale_dtype = dtype_of(base_scale, op);
        a.base_bias_dtype = a.base && !a.flipped ? dtype_of(base_bias, op) : FW_NONE;
        for (int l = 0; l < FW_WT_LEVELS; ++l) {
            const bool there = l < a.levels;
            a.weight_dtype[l] = there ? dtype_of(weights[step.from + l], op) : FW_NONE;
            a.scale_dtype[l] = there ? dtype_of(scales[step.from + l], op) : FW_NONE;
        }
        return a;
    }

    // The convolution of x or, with turned filters, of a gradient.
    Tensor convolve(const Tensor& x, const Tensor& y, bool flipped) const {
        if (x.numel() == 0) return y;
        const std::vector<WtStep> steps = wt_steps(shape, flipped, false);
        const std::vector<Tensor> from = images(x, steps), to = images(y, steps);
        encode([&](const Encoder& run) {
            make_low_bands(run, from);
            for (size_t k = steps.size(); k-- > 0;) {
                const FwWtArgs a = args_of(steps[k], from[k], to[k]);
                Tensors tensors{from[k]};
                const bool bias = a.base_bias_dtype != FW_NONE;
                tensors.push_back(a.base ? OptionalTensor(base_weight) : std::nullopt);
                tensors.push_back(bias ? base_bias : std::nullopt);
                tensors.push_back(a.base ? OptionalTensor(base_scale) : std::nullopt);
                for (const std::vector<Tensor>* parameters : {&weights, &scales}) {
                    for (int l = 0; l < FW_WT_LEVELS; ++l) {
                        tensors.push_back(l < a.levels
                                              ? OptionalTensor((*parameters)[steps[k].from + l])
                                              : std::nullopt);
                    }
                }
                tensors.push_back(a.deeper ? OptionalTensor(to[k + 1]) : std::nullopt);
                tensors.push_back(to[k]);
                run(kernel("_forward", from[k]), steps[k].dispatch, tensors, a);
            }
        });
        return y;
    }
};

template <int dims>
Tensor wtconv_forward(const char* op, const Tensor& x, const Tensor& base_weight,
                      const OptionalTensor& base_bias, const Tensor& base_scale,
                      const std::vector<Tensor>& weights, const std::vector<Tensor>& scales) {
    const WtCall<dims> call(op, x, base_weight, base_bias, base_scale, weights, scales);
    return call.convolve(x, fresh_like(x), false);
}

template <int dims>
std::tuple<Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>>
wtconv_backward(const char* op, const Tensor& grad_y, const Tensor& x, const Tensor& base_weight,
                const OptionalTensor& base_bias, const Tensor& base_scale,
                const std::vector<Tensor>& weights, const std::vector<Tensor>& scales,
                int64_t needs) {
    const WtCall<dims> call(op, x, base_weight, base_bias, base_scale, weights, scales);
    check_shape(grad_y, x.sizes(), op, "grad_y");
    check_dtype(grad_y, x.scalar_type(), op, "grad_y");
    const auto wanted = [&](int bit, const OptionalTensor& like) {
        return needs >> bit & 1 && present(like) ? fresh_like(*like) : none_like(x);
    };
    const Tensor dx = wanted(0, x);
    if (needs & 1) call.convolve(grad_y, dx, true);

    // The gradients of the base filter, and behind it of every level's.
    struct Gradients {
        Tensor weight, scale, bias;  // as they are returned
        Tensor dense_weight, dense_scale, dense_bias;
    };
    std::vector<Gradients> found;
    const auto add = [&](int weight_bit, const Tensor& weight, int scale_bit, const Tensor& scale,
                         const OptionalTensor& bias) {
        const Tensor w = wanted(weight_bit, weight), s = wanted(scale_bit, scale),
                     b = wanted(2, bias);
        found.push_back({w, s, b, dense(w), dense(s), dense(b)});
    };
    add(1, base_weight, 3, base_scale, base_bias);
    for (size_t l = 0; l < weights.size(); ++l) add(4, weights[l], 5, scales[l], std::nullopt);

    const auto result = [&] {
        std::vector<Tensor> dweights, dscales;
        for (size_t l = 1; l < found.size(); ++l) {
            dweights.push_back(found[l].weight);
            dscales.push_back(found[l].scale);
        }
        return std::tuple(dx, found[0].weight, found[0].bias, found[0].scale, dweights, dscales);
    };
    if (x.numel() == 0) {
        for (const Gradients& g : found) {
            for (Tensor t : {g.weight, g.scale, g.bias}) torch::stable::zero_(t);
        }
        return result();
    }
    if ((needs & ~int64_t{1}) == 0) return result();

    const std::vector<WtStep> steps = wt_steps(call.shape, false, true);
    const std::vector<Tensor> gradients = call.images(grad_y, steps),
                              inputs = call.images(x, steps);
    std::vector<Tensor> partials;
    for (const WtStep& step : steps)
        partials.push_back(fresh(x, {step.partials}, ScalarType::Float));
    const auto taps = static_cast<int32_t>(wt_taps(dims, call.shape.kernel));
    encode([&](const Encoder& run) {
        call.make_low_bands(run, gradients);
        call.make_low_bands(run, inputs);
        for (size_t k = 0; k < steps.size(); ++k) {
            const FwWtArgs a = call.args_of(steps[k], inputs[k], gradients[k]);
            run(call.kernel("_backward_filters", inputs[k]), steps[k].dispatch,
                {gradients[k], inputs[k], partials[k]}, a);
            // -1 is the base filter, which the first step has
            for (int l = a.base ? -1 : 0; l < a.levels; ++l) {
                const bool base = l < 0;
                const int level = steps[k].from + l;
                const Gradients& g = found[base ? 0 : level + 1];
                const Tensor& weight = base ? call.base_weight : call.weights[level];
                const Tensor& scale = base ? call.base_scale : call.scales[level];
                const OptionalTensor bias = base ? call.base_bias : std::nullopt;
                FwWtSumArgs sum{};
                sum.channels = a.channels, sum.chunks = a.chunks;
                sum.taps = taps, sum.bands = base ? 1 : call.bands;
                sum.first = base ? 0 : a.base + l * call.bands;
                sum.filters = static_cast<int32_t>(wt_filters(a, dims));
                sum.weight_dtype = dtype_of(weight, op), sum.scale_dtype = dtype_of(scale, op);
                sum.bias_dtype = dtype_of(bias, op);
                sum.grad_weight = g.weight.numel() > 0, sum.grad_scale = g.scale.numel() > 0;
                sum.grad_bias = g.bias.numel() > 0;
                run(std::string(op) + "_backward_sum_float", wt_backward_sum_dispatch(sum),
                    {partials[k], weight, scale, bias, g.dense_weight, g.dense_scale, g.dense_bias},
                    sum);
            }
        }
    });
    for (const Gradients& g : found) {
        copy_unless_same(g.weight, g.dense_weight);
        copy_unless_same(g.scale, g.dense_scale);
        copy_unless_same(g.bias, g.dense_bias);
    }
    return result();
}

}  // namespace fusewright::metal
