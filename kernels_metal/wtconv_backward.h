// The gradients of a wavelet convolution's parameters: every filter's correlation of x's bands with
// the output gradient's, which is transformed as x is. First sums of fixed parts of the batch, then
// their sum.
#pragma once

#include "wtconv.h"

enum { kTaps = 4 };  // neighbouring ones that a simdgroup sums at once

// The sums of a simdgroup's taps: one of each for the base filter, one a band for a level.
struct Sums {
    float of[kTaps][4];
    float gradient;  // of the output gradient itself, for the bias
};

template <int dims>
inline int first_row(constant FwWtArgs& args, int t) {
    return dims == 2 ? t / args.kernel_size - reach_before(args) : 0;
}

// Adds what the block (i, j) of x, whose pixels have the gradient g, gives to taps t, t + 1, ... of
// the base filter.
template <int dims, typename Image>
inline void add_base(thread Sums& sums, const thread Image& x, constant FwWtArgs& args, int taps,
                     int t, int i, int j, Block g) {
    for (int k = 0; k < kTaps && t + k < taps; ++k) {
        const int y = (dims == 2 ? 2 * i : 0) + first_row<dims>(args, t + k);
        const int column = 2 * j + (t + k) % args.kernel_size - reach_before(args);
        sums.of[k][0] = fma(x.at(y, column), g.a, sums.of[k][0]);
        sums.of[k][0] = fma(x.at(y, column + 1), g.b, sums.of[k][0]);
        if (dims == 2) {
            sums.of[k][0] = fma(x.at(y + 1, column), g.c, sums.of[k][0]);
            sums.of[k][0] = fma(x.at(y + 1, column + 1), g.d, sums.of[k][0]);
        }
    }
    sums.gradient += g.a + g.b + g.c + g.d;
}

// The same for the bands of a level; g is of bands as well.
template <int dims, typename Image>
inline void add_bands(thread Sums& sums, const thread Image& x, constant FwWtArgs& args, int taps,
                      int t, int i, int j, Block g) {
    for (int k = 0; k < kTaps && t + k < taps; ++k) {
        const Block bands =
            haar<dims>(x.template block<dims>((dims == 2 ? i : 0) + first_row<dims>(args, t + k),
                                              j + (t + k) % args.kernel_size - reach_before(args)));
        sums.of[k][0] = fma(bands.a, g.a, sums.of[k][0]);
        sums.of[k][1] = fma(bands.b, g.b, sums.of[k][1]);
        if (dims == 2) {
            sums.of[k][2] = fma(bands.c, g.c, sums.of[k][2]);
            sums.of[k][3] = fma(bands.d, g.d, sums.of[k][3]);
        }
    }
}

// The pyramid of the output gradient's low bands, in the places of the forward's results.
template <typename T, int dims>
inline void stage_gradient(const device T* grad_y, threadgroup float* shared,
                           constant FwWtArgs& args, const thread Region& r, uint index,
                           uint threads) {
    if (args.levels < 2) return;
    constant FwWtLevel& l = args.level[1];
    const int size = l.rows * l.row;
    for (int p = index; p < size * r.images; p += threads) {
        const int image = p / size, place = p % size;
        const Direct<T> g =
            image_of(grad_y, args.y_n, args.y_c, args.y_h, args.y_w, args, r, image);
        const Block v = g.template block<dims>(place / l.row, place % l.row);
        shared[image * args.image + l.recon + place] = haar<dims>(v).a;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_lows<dims>(shared, args, r, 2, true, index, threads);
}

// A lane's share of the region, for taps t, ... of the base (level 0) or of a level.
template <typename T, int dims>
inline Sums correlate(const device T* grad_y, const device T* x, const threadgroup float* shared,
                      constant FwWtArgs& args, const thread Region& r, int level, int taps, int t,
                      uint lane) {
    Sums sums;
    for (int k = 0; k < kTaps; ++k) {
        for (int s = 0; s < 4; ++s) sums.of[k][s] = 0;
    }
    sums.gradient = 0;
    const bool inner = level > 1;
    const int columns = inner ? args.level[level - 1].row / 2 : r.blocks_w;
    const int rows = !inner ? r.blocks_h : dims == 2 ? args.level[level - 1].rows / 2 : 1;
    const int blocks = rows * columns;
    for (int p = lane; p < blocks * r.images; p += 32) {
        const int image = p / blocks, i = p % blocks / columns, j = p % blocks % columns;
        if (inner) {
            const Block g =
                haar<dims>(recon_of(shared, args, image, level - 1).template block<dims>(i, j));
            add_bands<dims>(sums, low_of(shared, args, image, level - 1), args, taps, t, i, j, g);
            continue;
        }
        const Block g = image_of(grad_y, args.y_n, args.y_c, args.y_h, args.y_w, args, r, image)
                            .template block<dims>(i, j);
        if (args.staged) {
            const Staged from = low_of(shared, args, image, 0);
            const int y = i + args.halo_h / 2, column = j + args.halo_w / 2;
            if (level == 0) {
                add_base<dims>(sums, from, args, taps, t, y, column, g);
            } else {
                add_bands<dims>(sums, from, args, taps, t, y, column, haar<dims>(g));
            }
        } else {
            const Direct<T> from = x_of(x, args, r, image);
            if (level == 0) {
                add_base<dims>(sums, from, args, taps, t, i, j, g);
            } else {
                add_bands<dims>(sums, from, args, taps, t, i, j, haar<dims>(g));
            }
        }
    }
    return sums;
}

// A threadgroup has a channel and a part of the regions; a simdgroup has taps of a level, which it
// alone adds up in `partial`: of each part and channel the sums of all filters' taps, and behind
// them the gradient's.
template <typename T, int dims>
inline void wt_backward_filters(const device T* grad_y, const device T* x, device float* partial,
                                constant FwWtArgs& args, threadgroup float* shared, uint group,
                                uint index, uint threads, uint lane, uint simdgroup,
                                uint simdgroups) {
    const uint channels = uint(args.channels), channel = group % channels;
    const int64_t part = group / channels, tiles = int64_t(args.tiles_h) * args.tiles_w;
    const int64_t units = args.groups * tiles, begin = part * units / args.chunks;
    const int64_t end = (part + 1) * units / args.chunks;
    const int taps = dims == 2 ? args.kernel_size * args.kernel_size : args.kernel_size;
    const int filters = args.base + (args.levels << dims), strips = (taps + kTaps - 1) / kTaps;
    device float* to = partial + int64_t(group) * (filters * taps + 1);
    for (int64_t unit = begin; unit < end; ++unit) {
        const Region r = region_of<dims>(args, channel, uint(unit));
        if (args.staged) {
            threadgroup_barrier(mem_flags::mem_threadgroup);  // the region before has been read
            stage_x(x, shared, args, r, index, threads);
            stage_lows<dims>(shared, args, r, 1, false, index, threads);
            stage_gradient<T, dims>(grad_y, shared, args, r, index, threads);
        }
        for (int job = simdgroup; job < (args.levels + 1) * strips; job += simdgroups) {
            const int level = job / strips, t = job % strips * kTaps;
            if (level == 0 && !args.base) continue;
            const Sums sums = correlate<T, dims>(grad_y, x, shared, args, r, level, taps, t, lane);
            const int first = level == 0 ? 0 : args.base + ((level - 1) << dims);
            for (int k = 0; k < kTaps && t + k < taps; ++k) {
                for (int s = 0; s < (level == 0 ? 1 : 1 << dims); ++s) {
                    const float sum = simd_sum(sums.of[k][s]);
                    device float* place = to + (first + s) * taps + t + k;
                    if (lane == 0) *place = unit == begin ? sum : *place + sum;
                }
            }
            if (level == 0 && t == 0) {
                const float sum = simd_sum(sums.gradient);
                device float* place = to + filters * taps;
                if (lane == 0) *place = unit == begin ? sum : *place + sum;
            }
        }
    }
}

// A simdgroup has a filter: the gradients of its taps, its scale and, of the base, its bias.
inline void wt_backward_sum(const device float* partial, const device uchar* weight,
                            const device uchar* scale, const device uchar* bias,
                            device uchar* grad_weight, device uchar* grad_scale,
                            device uchar* grad_bias, constant FwWtSumArgs& args, int64_t filter,
                            uint lane) {
    if (filter >= args.channels * args.bands) return;
    const int64_t channel = filter / args.bands, band = filter % args.bands;
    const int64_t size = int64_t(args.filters) * args.taps + 1, step = size * args.channels;
    const device float* from = partial + channel * size;
    const float factor = load_any(scale, args.scale_dtype, filter);
    float product = 0;
    for (int64_t t = lane; t < args.taps; t += 32) {
        float sum = 0;
        for (int64_t part = 0; part < args.chunks; ++part) {
            sum += from[part * step + (args.first + band) * args.taps + t];
        }
        product += sum * load_any(weight, args.weight_dtype, filter * args.taps + t);
        if (args.grad_weight) {
            store_any(grad_weight, args.weight_dtype, filter * args.taps + t, factor * sum);
        }
    }
    product = simd_sum(product);
    if (lane > 0) return;
    if (args.bias_dtype != FW_NONE) {
        float sum = 0;
        for (int64_t part = 0; part < args.chunks; ++part) sum += from[part * step + size - 1];
        product += sum * load_any(bias, args.bias_dtype, channel);
        if (args.grad_bias) store_any(grad_bias, args.bias_dtype, channel, factor * sum);
    }
    if (args.grad_scale) store_any(grad_scale, args.scale_dtype, filter, product);
}
