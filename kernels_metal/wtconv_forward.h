// The forward of a wavelet convolution, and with flipped filters the gradient of its input.
#pragma once

#include "wtconv.h"

// The parameters of a channel as they are bound.
struct WtParameters {
    const device uchar* base_weight;
    const device uchar* base_bias;
    const device uchar* base_scale;
    const device uchar* weight[FW_WT_LEVELS];
    const device uchar* scale[FW_WT_LEVELS];

    // A tap times the filter's scale. Filter 0 is the base's, if this step has it; behind it come
    // the bands of each level.
    float tap(constant FwWtArgs& args, int bands, int64_t channel, int filter, int t,
              int taps) const {
        const int64_t place = args.flipped ? taps - 1 - t : t;
        if (args.base && filter == 0) {
            return load_any(base_weight, args.base_weight_dtype, channel * taps + place) *
                   load_any(base_scale, args.base_scale_dtype, channel);
        }
        const int level = (filter - args.base) / bands;
        const int64_t of = channel * bands + (filter - args.base) % bands;
        return load_any(weight[level], args.weight_dtype[level], of * taps + place) *
               load_any(scale[level], args.scale_dtype[level], of);
    }

    float bias(constant FwWtArgs& args, int64_t channel) const {
        if (!args.base || args.base_bias_dtype == FW_NONE) return 0.0f;
        return load_any(base_bias, args.base_bias_dtype, channel) *
               load_any(base_scale, args.base_scale_dtype, channel);
    }
};

// A channel's filters in threadgroup memory, with the bias behind them; or, where they have no room
// there, as they are bound.
template <bool staged, int dims>
struct Filters {
    const threadgroup float* shared;
    const thread WtParameters* bound;
    int64_t channel;
    int taps, filters;

    float tap(constant FwWtArgs& args, int filter, int t) const {
        if (staged) return shared[filter * taps + t];
        return bound->tap(args, 1 << dims, channel, filter, t, taps);
    }

    float bias(constant FwWtArgs& args) const {
        return staged ? shared[filters * taps] : bound->bias(args, channel);
    }
};

// The bands of level `level` (from 0) at (i, j), filtered; `image` is what that level transforms.
template <int dims, typename Image, typename F>
inline Block filter_bands(const thread Image& image, const thread F& filters,
                          constant FwWtArgs& args, int level, int i, int j) {
    const int before = reach_before(args), rows = dims == 2 ? args.kernel_size : 1;
    const int first = args.base + (level << dims);
    Block sum = {0, 0, 0, 0};
    for (int u = 0; u < rows; ++u) {
        for (int v = 0; v < args.kernel_size; ++v) {
            const Block bands = haar<dims>(
                image.template block<dims>(dims == 2 ? i + u - before : i, j + v - before));
            const int t = u * args.kernel_size + v;
            sum.a = fma(filters.tap(args, first, t), bands.a, sum.a);
            sum.b = fma(filters.tap(args, first + 1, t), bands.b, sum.b);
            if (dims == 2) {
                sum.c = fma(filters.tap(args, first + 2, t), bands.c, sum.c);
                sum.d = fma(filters.tap(args, first + 3, t), bands.d, sum.d);
            }
        }
    }
    return sum;
}

// The base filter at the four pixels, or two, of the block (i, j): columns are read once.
template <int dims, typename Image, typename F>
inline Block filter_base(const thread Image& image, const thread F& filters,
                         constant FwWtArgs& args, int i, int j) {
    const int before = reach_before(args), rows = dims == 2 ? args.kernel_size : 1;
    const float bias = filters.bias(args);
    Block sum = {bias, bias, bias, bias};
    for (int u = 0; u < rows; ++u) {
        const int y = dims == 2 ? 2 * i + u - before : 0, x = 2 * j - before;
        float top = image.at(y, x), bottom = dims == 2 ? image.at(y + 1, x) : 0.0f;
        for (int v = 0; v < args.kernel_size; ++v) {
            const float tap = filters.tap(args, 0, u * args.kernel_size + v);
            const float next_top = image.at(y, x + v + 1);
            const float next_bottom = dims == 2 ? image.at(y + 1, x + v + 1) : 0.0f;
            sum.a = fma(tap, top, sum.a);
            sum.b = fma(tap, next_top, sum.b);
            sum.c = fma(tap, bottom, sum.c);
            sum.d = fma(tap, next_bottom, sum.d);
            top = next_top, bottom = next_bottom;
        }
    }
    return sum;
}

// The results of levels 2 and deeper, each into the place of what it is added to.
template <int dims, typename F>
inline void stage_recons(threadgroup float* shared, const thread F& filters,
                         constant FwWtArgs& args, const thread Region& r, uint index,
                         uint threads) {
    for (int level = args.levels - 1; level > 0; --level) {
        constant FwWtLevel& l = args.level[level];
        const int columns = l.row / 2, blocks = (dims == 2 ? l.rows / 2 : 1) * columns;
        for (int p = index; p < blocks * r.images; p += threads) {
            const int image = p / blocks, i = p % blocks / columns, j = p % blocks % columns;
            Block sum =
                filter_bands<dims>(low_of(shared, args, image, level), filters, args, level, i, j);
            if (level + 1 < args.levels) {
                sum.a += recon_of(shared, args, image, level + 1).at(i, j);
            }
            const Block v = ihaar<dims>(sum);
            threadgroup float* to = shared + image * args.image + l.recon + 2 * i * l.row + 2 * j;
            to[0] = v.a, to[1] = v.b;
            if (dims == 2) to[l.row] = v.c, to[l.row + 1] = v.d;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// What one block of pixels is, of an image whose halo is in front of the tile.
template <int dims, typename Image, typename F>
inline Block filter_block(const thread Image& image, const thread F& filters,
                          constant FwWtArgs& args, int i, int j, float deeper) {
    Block v = {0, 0, 0, 0};
    if (args.levels > 0) {
        Block sum = filter_bands<dims>(image, filters, args, 0, i, j);
        sum.a += deeper;
        v = ihaar<dims>(sum);
    }
    if (args.base) {
        const Block base = filter_base<dims>(image, filters, args, i, j);
        v.a += base.a, v.b += base.b, v.c += base.c, v.d += base.d;
    }
    return v;
}

template <typename T, int dims>
inline void store_block(device T* y, constant FwWtArgs& args, const thread Region& r, int image,
                        int i, int j, Block v) {
    const int64_t row = r.y0 + 2 * i, column = r.x0 + 2 * j;
    const bool right = column + 1 < args.width, below = dims == 2 && row + 1 < args.height;
    device T* to = y + (r.image + image) * args.y_n + r.channel * args.y_c + row * args.y_h +
                   column * args.y_w;
    to[0] = from_acc<T>(v.a);
    if (right) to[args.y_w] = from_acc<T>(v.b);
    if (below) to[args.y_h] = from_acc<T>(v.c);
    if (right && below) to[args.y_h + args.y_w] = from_acc<T>(v.d);
}

template <typename T, int dims>
inline void wt_forward(const device T* x, const thread WtParameters& bound,
                       const device float* deeper, device T* y, constant FwWtArgs& args,
                       threadgroup float* shared, uint group, uint index, uint threads) {
    const uint channels = uint(args.channels);
    const Region r = region_of<dims>(args, group % channels, group / channels);
    const int taps = dims == 2 ? args.kernel_size * args.kernel_size : args.kernel_size;
    const int filters = args.base + (args.levels << dims);
    if (args.staged) {
        threadgroup float* weights = shared + args.weights;
        for (int p = index; p < filters * taps; p += threads) {
            weights[p] = bound.tap(args, 1 << dims, r.channel, p / taps, p % taps, taps);
        }
        if (index == 0) weights[filters * taps] = bound.bias(args, r.channel);
        stage_x(x, shared, args, r, index, threads);
        stage_lows<dims>(shared, args, r, 1, false, index, threads);
    }
    const Filters<true, dims> near = {shared + args.weights, &bound, r.channel, taps, filters};
    const Filters<false, dims> far = {shared, &bound, r.channel, taps, filters};
    if (args.staged) stage_recons<dims>(shared, near, args, r, index, threads);
    const int blocks = r.blocks_h * r.blocks_w;
    const int64_t low_h = (args.height + 1) / 2, low_w = (args.width + 1) / 2;
    for (int p = index; p < blocks * r.images; p += threads) {
        const int image = p / blocks, i = p % blocks / r.blocks_w, j = p % blocks % r.blocks_w;
        float below = 0;
        if (args.deeper) {
            const int64_t plane = (r.image + image) * args.channels + r.channel;
            below = deeper[(plane * low_h + r.y0 / 2 + i) * low_w + r.x0 / 2 + j];
        } else if (args.levels > 1) {
            below = recon_of(shared, args, image, 1).at(i, j);
        }
        Block v;
        if (args.staged) {
            v = filter_block<dims>(low_of(shared, args, image, 0), near, args, i + args.halo_h / 2,
                                   j + args.halo_w / 2, below);
        } else {
            v = filter_block<dims>(x_of(x, args, r, image), far, args, i, j, below);
        }
        store_block<T, dims>(y, args, r, image, i, j, v);
    }
}

#define FW_WT_FORWARD(dims)                                                                        \
    template <typename T>                                                                          \
    [[kernel, max_total_threads_per_threadgroup(256)]] void wtconv##dims##d_forward(               \
        const device T* x [[buffer(0)]], const device uchar* base_weight [[buffer(1)]],            \
        const device uchar* base_bias [[buffer(2)]], const device uchar* base_scale [[buffer(3)]], \
        const device uchar* w0 [[buffer(4)]], const device uchar* w1 [[buffer(5)]],                \
        const device uchar* w2 [[buffer(6)]], const device uchar* w3 [[buffer(7)]],                \
        const device uchar* w4 [[buffer(8)]], const device uchar* w5 [[buffer(9)]],                \
        const device uchar* w6 [[buffer(10)]], const device uchar* w7 [[buffer(11)]],              \
        const device uchar* s0 [[buffer(12)]], const device uchar* s1 [[buffer(13)]],              \
        const device uchar* s2 [[buffer(14)]], const device uchar* s3 [[buffer(15)]],              \
        const device uchar* s4 [[buffer(16)]], const device uchar* s5 [[buffer(17)]],              \
        const device uchar* s6 [[buffer(18)]], const device uchar* s7 [[buffer(19)]],              \
        const device float* deeper [[buffer(20)]], device T* y [[buffer(21)]],                     \
        constant FwWtArgs& args [[buffer(22)]], threadgroup float* shared [[threadgroup(0)]],      \
        uint group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],   \
        uint threads [[threads_per_threadgroup]]) {                                                \
        const WtParameters bound = {base_weight,                                                   \
                                    base_bias,                                                     \
                                    base_scale,                                                    \
                                    {w0, w1, w2, w3, w4, w5, w6, w7},                              \
                                    {s0, s1, s2, s3, s4, s5, s6, s7}};                             \
        wt_forward<T, dims>(x, bound, deeper, y, args, shared, group, index, threads);             \
    }                                                                                              \
    FW_KERNELS("wtconv" #dims "d_forward", wtconv##dims##d_forward)
