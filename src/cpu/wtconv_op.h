// The operators wtconv1d and wtconv2d around `wtconv.h`: parameters, threads, and gradients.
#pragma once

#include <atomic>

#include "cpu/wtconv.h"
#include "cpu/wtconv_rows.h"

namespace fusewright::cpu::FW_ISA {

using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

template <int dims>
WTConvShape<dims> wtconv_shape(const char* op, const Tensor& x, const Tensor& base_weight,
                               const Tensors& weights) {
    check_rank(x, dims + 2, op, "x");
    check_rank(base_weight, dims + 2, op, "base_weight");
    WTConvShape<dims> s{x.size(0),
                        x.size(1),
                        base_weight.size(base_weight.dim() - 1),
                        static_cast<int64_t>(weights.size()),
                        {},
                        {}};
    s.height.push_back(dims == 2 ? x.size(2) : 1);
    s.width.push_back(x.size(dims + 1));
    for (int64_t level = 0; level < s.levels; ++level) {
        s.height.push_back(dims == 2 ? (s.height.back() + 1) / 2 : 1);
        s.width.push_back((s.width.back() + 1) / 2);
    }
    std::vector<int64_t> shape(dims + 2, std::max<int64_t>(s.kernel, 1));
    shape[0] = s.channels;
    shape[1] = 1;
    check_shape(base_weight, shape, op, "base_weight");
    shape[0] *= s.bands;
    for (const Tensor& w : weights) check_shape(w, shape, op, "wavelet_weights[i]");
    return s;
}

// The elements of a parameter as accumulators, in place where they are.
template <class A>
class Values {
  public:
    Values(const Tensor& t, const char* op) : dense_(as_contiguous(t)), size_(t.numel()) {
        with_dtype(dense_.scalar_type(), op, [&](auto type) {
            if constexpr (std::is_same_v<typename decltype(type)::type, A>) {
                data_ = dense_.template const_data_ptr<A>();
            }
        });
        if (data_ != nullptr) return;
        converted_ = as_acc<A>(dense_, op);
        data_ = converted_.data();
    }
    Values(Values&&) = default;

    const A* data() const { return data_; }
    int64_t size() const { return size_; }
    A operator[](int64_t i) const { return data_[i]; }

  private:
    Tensor dense_;
    int64_t size_;
    std::vector<A> converted_;
    const A* data_ = nullptr;
};

template <class A>
struct WTConvParameters {
    Values<A> base, base_scale;
    std::vector<A> bias;
    std::vector<Values<A>> wavelet, scale;

    WTConvParameters(const char* op, int64_t channels, int64_t bands, const Tensor& base_weight,
                     const OptionalTensor& base_bias, const Tensor& scale_of_base,
                     const Tensors& weights, const Tensors& scales)
        : base(base_weight, op),
          base_scale(scale_of_base, op),
          bias(as_acc_or_zeros<A>(base_bias, channels, op)) {
        const auto one_each = [op](int64_t size, int64_t n, const char* name) {
            FW_CHECK(size == n, op, name, ".numel() is ", size, ", must be ", n);
        };
        one_each(bias.size(), channels, "base_bias");
        one_each(base_scale.size(), channels, "base_scale");
        FW_CHECK(scales.size() == weights.size(), op, "len(wavelet_scales) is ", scales.size(),
                 ", must be ", weights.size(), " as wavelet_weights");
        for (size_t level = 0; level < weights.size(); ++level) {
            wavelet.emplace_back(weights[level], op);
            scale.emplace_back(scales[level], op);
            one_each(scale.back().size(), bands * channels, "wavelet_scales[i]");
        }
    }

    // The filters of at most a vector of channels as (filter, tap, lane), with their scales and
    // with the factors that the transforms leave out.
    template <int dims>
    void interleave(const WTConvShape<dims>& s, int64_t channel, int n, bool flipped,
                    A* out) const {
        constexpr int lanes = Vec<A>::size;
        const int64_t taps = s.taps();
        A power = 1;
        for (int64_t f = 0; f < s.filters(); ++f, out += taps * lanes) {
            if (f % s.bands == 1) power *= A(1) / s.bands;
            const int64_t level = (f - 1) / s.bands, each = f == 0 ? 1 : s.bands;
            const int64_t row = channel * each + (f == 0 ? 0 : (f - 1) % s.bands);
            const Values<A>& filter = f == 0 ? base : wavelet[level];
            const Values<A>& factors = f == 0 ? base_scale : scale[level];
            const Vec<A> by = load_run(factors.data() + row, each, n) * Vec<A>(power);
            for (int64_t k = 0; k < taps; k += lanes) {
                native_t<A> block[lanes];
                const int count = static_cast<int>(std::min<int64_t>(lanes, taps - k));
                load_block<A>(filter.data() + row * taps + k, each * taps, n, 1, count, block);
                repeat<lanes>([&](auto i) FW_INLINE_LAMBDA {
                    if (i >= count) return;
                    store(out + (flipped ? taps - 1 - k - i : k + i) * lanes,
                          Vec<A>(block[i]) * by);
                });
            }
        }
    }

    // Filter 0 is the base's, then come the bands of every level.
    void scaled_filter(int64_t channel, int64_t f, int64_t bands, int64_t taps, A by,
                       A* out) const {
        const int64_t level = (f - 1) / bands, row = channel * bands + (f - 1) % bands;
        const A* filter =
            f == 0 ? base.data() + channel * taps : wavelet[level].data() + row * taps;
        const A factor = by * (f == 0 ? base_scale[channel] : scale[level][row]);
        for (int64_t k = 0; k < taps; ++k) out[k] = factor * filter[k];
    }
};

// The work is cut into groups of channels and parts of the batch. The parts depend on the shape
// alone, so that sums over them are the same for any number of threads.
template <int dims, class A>
struct Items {
    int64_t groups, parts;
    explicit Items(const WTConvShape<dims>& s, int64_t channels_each = Vec<A>::size)
        : groups((s.channels + channels_each - 1) / channels_each),
          parts(std::min(s.batch, std::max<int64_t>(1, 64 / std::max<int64_t>(groups, 1)))) {}
    int64_t count() const { return groups * parts; }
};

// Calls start() for every thread, then its result with (item, group, first batch, end batch).
template <int dims, class A, class F>
void for_each_item(const WTConvShape<dims>& s, F&& start, int64_t channels_each = Vec<A>::size) {
    const Items<dims, A> items(s, channels_each);
    const int64_t pixels = s.height[0] * s.width[0] * channels_each * (s.batch / items.parts);
    const int64_t grain = std::max<int64_t>(1, 16384 / pixels);
    const int64_t count = items.count();
    std::atomic<int64_t> next{0};
    // A thread that comes late, or whose core is slow, gets fewer: each takes half of its share of
    // what is left.
    torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
        auto&& run = start();
        int64_t begin = next.load();
        while (begin < count) {
            const int64_t end =
                begin + std::max<int64_t>(1, (count - begin) * (last - first) / (2 * count));
            if (!next.compare_exchange_weak(begin, end)) continue;
            for (int64_t item = begin; item < end; ++item) {
                const int64_t part = item % items.parts;
                run(item, item / items.parts, part * s.batch / items.parts,
                    (part + 1) * s.batch / items.parts);
            }
            begin = next.load();
        }
    });
}

// The planes that follow those of image b and `n` channels, where they are in one piece.
template <int dims, class T>
Ahead planes_after(const WTConvShape<dims>& s, const T* x, const Strides<dims>& stride, int64_t b,
                   int64_t channel, int64_t n) {
    const bool more = b + 1 < s.batch;
    const int64_t pixels = s.height[0] * s.width[0], next = more ? channel : channel + n;
    if (next + n > s.channels || stride.column != 1 || !dense_plane(s, stride) ||
        (n > 1 && stride.channel != pixels)) {
        return {};
    }
    return {reinterpret_cast<const char*>(x + stride.plane(more ? b + 1 : 0, next)),
            n * pixels * static_cast<int64_t>(sizeof(T))};
}

// Whether planes are filtered along their rows: those that are wide, where a vector of channels
// with all its bands does not fit into the second cache, or would be half empty.
template <class A>
bool by_rows(const WTConvShape<2>& s, const Tensor& x, const Tensor& y) {
    constexpr int64_t lanes = Vec<A>::size, cache = int64_t{1} << 20;
    if (x.stride(3) != 1 || y.stride(3) != 1 || s.width[0] <= lanes) return false;
    return 2 * s.channels <= lanes || Pyramid<2, A>::pixels(s) * kVectorBytes > cache;
}

template <class A, class T>
void forward_by_rows(const WTConvShape<2>& s, const WTConvParameters<A>& p, const Tensor& x,
                     const Tensor& y) {
    const Strides<2> in(x), out(y);
    const int64_t taps = s.taps(), before = (s.kernel - 1) / 2;
    const bool stream = worth_streaming(y);
    with_constant<3, 5, 7>(s.kernel, [&](auto kernel) {
        for_each_item<2, A>(
            s,
            [&] {
                return
                    [&, pyramid = RowPyramid<A>(s), filters = std::vector<A>(s.filters() * taps)](
                        int64_t, int64_t channel, int64_t first, int64_t last) mutable {
                        A power = 1;
                        for (int64_t f = 0; f < s.filters(); ++f) {
                            if (f % s.bands == 1) power *= A(0.25);
                            p.scaled_filter(channel, f, s.bands, taps, power, &filters[f * taps]);
                        }
                        for (int64_t b = first; b < last; ++b) {
                            pyramid.template read<kernel>(
                                x.const_data_ptr<T>() + in.plane(b, channel), in.row);
                            pyramid.template filter<kernel>(
                                filters.data(), before, p.bias[channel] * p.base_scale[channel],
                                y.mutable_data_ptr<T>() + out.plane(b, channel), out.row, stream,
                                planes_after(s, x.const_data_ptr<T>(), in, b, channel, 1));
                        }
                    };
            },
            1);
    });
}

template <int dims>
Tensor wtconv_forward(const char* op, const Tensor& x, const Tensor& base_weight,
                      const OptionalTensor& base_bias, const Tensor& base_scale,
                      const Tensors& weights, const Tensors& scales) {
    const auto s = wtconv_shape<dims>(op, x, base_weight, weights);
    Tensor y = fresh_like(x);
    if (x.numel() == 0) return y;
    with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        constexpr int lanes = Vec<A>::size;
        const WTConvParameters<A> p(op, s.channels, s.bands, base_weight, base_bias, base_scale,
                                    weights, scales);
        if constexpr (dims == 2) {
            if (by_rows<A>(s, x, y)) return forward_by_rows<A, T>(s, p, x, y);
        }
        const Strides<dims> in(x), out(y);
        for_each_item<dims, A>(s, [&] {
            return [&, pyramid = Pyramid<dims, A>(s), images = Images<dims, A>(s),
                    filters = zeros<A>(s.filters() * s.taps() * lanes), held = int64_t{-1}](
                       int64_t, int64_t group, int64_t first, int64_t last) mutable {
                const int64_t channel = group * lanes;
                const int n = static_cast<int>(std::min<int64_t>(lanes, s.channels - channel));
                if (group != held) p.interleave(s, channel, n, false, filters.get());
                held = group;
                A bias[lanes] = {};
                for (int i = 0; i < n; ++i)
                    bias[i] = p.bias[channel + i] * p.base_scale[channel + i];
                for (int64_t b = first; b < last; ++b) {
                    pyramid.read(x.const_data_ptr<T>() + in.plane(b, channel), in, n);
                    synthesize(
                        s, pyramid, filters.get(), (s.kernel - 1) / 2, bias, images,
                        Output<dims, T>{s, y.mutable_data_ptr<T>() + out.plane(b, channel), out, n},
                        planes_after(s, x.const_data_ptr<T>(), in, b, channel, lanes));
                }
            };
        });
    });
    return y;
}

// What the products of x's bands with the gradient's bands say of the parameters.
template <int dims>
struct ParameterGradients {
    const WTConvShape<dims>& s;
    std::vector<double> filter;  // (channel, filter, tap): of the filters with their scales
    std::vector<double> total;   // (channel): the sum of the output gradient

    // Of the filters alone: times the scale. Of the scale: the product with the filter, summed.
    template <class A>
    void split(int64_t f_first, int64_t bands, const Values<A>& weight, const Values<A>& scale,
               std::vector<double>& dweight, std::vector<double>& dscale) const {
        const int64_t taps = s.taps();
        dweight.assign(weight.size(), 0);
        dscale.assign(scale.size(), 0);
        for (int64_t row = 0; row < s.channels * bands; ++row) {
            const int64_t channel = row / bands, f = f_first + row % bands;
            const double* g = &filter[(channel * s.filters() + f) * taps];
            for (int64_t k = 0; k < taps; ++k) {
                dweight[row * taps + k] = g[k] * scale[row];
                dscale[row] += g[k] * weight[row * taps + k];
            }
        }
    }
};

// Adds one plane's products of x with the gradient: every filter's taps, then the gradient itself.
template <int kWidth, int dims, class A>
void correlate(const WTConvShape<dims>& s, Pyramid<dims, A>& x, Pyramid<dims, A>& grad, A* sums) {
    constexpr int lanes = Vec<A>::size;
    const int64_t taps = s.taps() * lanes;
    // Summed over one plane first: the running sums then grow by few, large terms.
    std::vector<A> plane((s.filters() * s.taps() + 1) * lanes);
    const auto end = [&](int64_t level) { return (1 + level * s.bands) * taps; };
    for (int64_t level = 0; level <= s.levels; ++level) {
        for (int64_t band = 0; band < (level == 0 ? 1 : s.bands); ++band) {
            A* to = &plane[(level == 0 ? 0 : 1 + (level - 1) * s.bands + band) * taps];
            for (int64_t r = 0; r < s.height[level]; ++r) {
                correlate_row<kWidth>(x.under(level, band, r, (s.kernel - 1) / 2),
                                      s.pitch(level) * lanes, s.kernel_height(), s.kernel,
                                      grad.under(level, band, r, 0), s.width[level], to);
            }
        }
    }
    Vec<A> total;
    for (int64_t r = 0; r < s.height[0]; ++r) {
        Vec<A> row;
        for (int64_t c = 0; c < s.width[0]; ++c) {
            row += load<A>(grad.under(0, 0, r, 0) + c * lanes);
        }
        total += row;
    }
    store(&plane[s.filters() * taps], total);
    // Each transform has left out a factor, as the bands of the two have it twice.
    for (int64_t level = s.levels; level > 0; --level) {
        for (int64_t i = end(level - 1); i < end(s.levels); ++i) plane[i] /= s.bands;
    }
    for (size_t i = 0; i < plane.size(); ++i) sums[i] += plane[i];
}

// The sums of all items, in their order.
template <int dims, class A>
void add_up(const WTConvShape<dims>& s, const std::vector<A>& sums, int64_t items,
            ParameterGradients<dims>& g) {
    constexpr int lanes = Vec<A>::size;
    const int64_t groups = (s.channels + lanes - 1) / lanes, rows = s.filters() * s.taps();
    g.filter.assign(s.channels * rows, 0);
    g.total.assign(s.channels, 0);
    for (int64_t item = 0; item < items; ++item) {
        const int64_t group = item / (items / groups);
        for (int64_t row = 0; row <= rows; ++row) {
            for (int64_t lane = 0; lane < std::min<int64_t>(lanes, s.channels - group * lanes);
                 ++lane) {
                const int64_t channel = group * lanes + lane;
                const double v = sums[(item * (rows + 1) + row) * lanes + lane];
                (row < rows ? g.filter[channel * rows + row] : g.total[channel]) += v;
            }
        }
    }
}

template <int dims>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors, Tensors> wtconv_backward(
    const char* op, const Tensor& grad, const Tensor& x, const Tensor& base_weight,
    const OptionalTensor& base_bias, const Tensor& base_scale, const Tensors& weights,
    const Tensors& scales, int64_t needs) {
    const auto s = wtconv_shape<dims>(op, x, base_weight, weights);
    check_shape(grad, x.sizes(), op, "grad_y");
    check_dtype(grad, x.scalar_type(), op, "grad_y");
    const bool needs_x = needs & 1, needs_parameters = needs >> 1;
    Tensor dx = needs_x ? fresh_like(x) : none_like(x);
    const auto gradient = [&](int bit, const Tensor& like, const auto& values) {
        if (!(needs >> bit & 1)) return none_like(x);
        Tensor dense = fresh(like, {like.numel()});
        write_acc(dense, values.data(), op);
        Tensor result = fresh_like(like);
        std::vector<int64_t> sizes;
        for (int64_t d = 0; d < like.dim(); ++d) sizes.push_back(like.size(d));
        torch::stable::copy_(result, torch::stable::view(dense, sizes));
        return result;
    };
    return with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        constexpr int lanes = Vec<A>::size;
        const WTConvParameters<A> p(op, s.channels, s.bands, base_weight, base_bias, base_scale,
                                    weights, scales);
        const int64_t taps = s.taps(), sums_size = (s.filters() * taps + 1) * lanes;
        const int64_t items = x.numel() == 0 ? 0 : Items<dims, A>(s).count();
        std::vector<A> sums(needs_parameters ? items * sums_size : 0);
        if (x.numel() > 0) {
            const Strides<dims> in(x), from(grad), out(needs_x ? dx : x);
            with_constant<3, 5, 7>(s.kernel, [&](auto kernel) {
                for_each_item<dims, A>(s, [&] {
                    return [&, of_grad = Pyramid<dims, A>(s), of_x = Pyramid<dims, A>(s),
                            images = Images<dims, A>(s),
                            flipped = zeros<A>(s.filters() * taps * lanes)](
                               int64_t item, int64_t group, int64_t first, int64_t last) mutable {
                        const int64_t channel = group * lanes;
                        const int n =
                            static_cast<int>(std::min<int64_t>(lanes, s.channels - channel));
                        const A no_bias[lanes] = {};
                        p.interleave(s, channel, n, true, flipped.get());
                        for (int64_t b = first; b < last; ++b) {
                            of_grad.read(grad.const_data_ptr<T>() + from.plane(b, channel), from,
                                         n);
                            if (needs_parameters) {
                                of_x.read(x.const_data_ptr<T>() + in.plane(b, channel), in, n);
                                correlate<kernel>(s, of_x, of_grad, &sums[item * sums_size]);
                            }
                            if (!needs_x) continue;
                            // The transform is orthonormal: the gradient of x is the same
                            // convolution with the filters flipped.
                            synthesize(
                                s, of_grad, flipped.get(), s.kernel - 1 - (s.kernel - 1) / 2,
                                no_bias, images,
                                Output<dims, T>{s, dx.mutable_data_ptr<T>() + out.plane(b, channel),
                                                out, n},
                                planes_after(s, grad.const_data_ptr<T>(), from, b, channel, lanes));
                        }
                    };
                });
            });
        }
        ParameterGradients<dims> g{s, {}, {}};
        std::vector<double> dbase, dbase_scale, dbias(s.channels);
        Tensors dweights, dscales;
        if (needs_parameters) {
            add_up<dims, A>(s, sums, items, g);
            g.split(0, 1, p.base, p.base_scale, dbase, dbase_scale);
            for (int64_t channel = 0; channel < s.channels; ++channel) {
                dbias[channel] = g.total[channel] * p.base_scale[channel];
                dbase_scale[channel] += g.total[channel] * p.bias[channel];
            }
        }
        for (int64_t level = 0; level < s.levels; ++level) {
            std::vector<double> dweight, dscale;
            if (needs_parameters) {
                g.split(1 + level * s.bands, s.bands, p.wavelet[level], p.scale[level], dweight,
                        dscale);
            }
            dweights.push_back(gradient(4, weights[level], dweight));
            dscales.push_back(gradient(5, scales[level], dscale));
        }
        return std::tuple(dx, gradient(1, base_weight, dbase),
                          present(base_bias) ? gradient(2, *base_bias, dbias) : none_like(x),
                          gradient(3, base_scale, dbase_scale), dweights, dscales);
    });
}

}  // namespace fusewright::cpu::FW_ISA
