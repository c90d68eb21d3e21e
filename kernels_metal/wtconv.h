// The wavelet convolution of one region of one channel, of one or several images, with all its
// levels: what the forward and the gradients of the filters share.
//
// Of each level only the image that it transforms is stored, the raw low band of the level above;
// the bands are made of it where a filter reads them. Sizes are stored rounded up to even with
// zeros, which is the padding of every level.
#pragma once

#include "haar.h"

// An image in threadgroup memory.
struct Staged {
    const threadgroup float* data;
    int rows, row;

    float at(int y, int x) const {
        return y >= 0 && y < rows && x >= 0 && x < row ? data[y * row + x] : 0.0f;
    }

    template <int dims>
    Block block(int i, int j) const {
        Block v = {0, 0, 0, 0};
        if (j < 0 || 2 * j >= row || (dims == 2 && (i < 0 || 2 * i >= rows))) return v;
        const threadgroup float* from = data + 2 * i * row + 2 * j;
        v.a = from[0], v.b = from[1];
        if (dims == 2) v.c = from[row], v.d = from[row + 1];
        return v;
    }
};

// An image, or from (y0, x0) on a part of one, where it lies.
template <typename T>
struct Direct {
    const device T* data;
    int64_t stride_h, stride_w, height, width;  // from (y0, x0) on to the image's end
    int64_t y0, x0;

    float at(int y, int x) const {
        if (y < -y0 || y >= height || x < -x0 || x >= width) return 0.0f;
        return to_acc(data[y * stride_h + x * stride_w]);
    }

    template <int dims>
    Block block(int i, int j) const {
        Block v = {at(2 * i, 2 * j), at(2 * i, 2 * j + 1), 0, 0};
        if (dims == 2) v.c = at(2 * i + 1, 2 * j), v.d = at(2 * i + 1, 2 * j + 1);
        return v;
    }
};

// The region of a threadgroup: its channel, images, and tile.
struct Region {
    int64_t channel, image;  // the first image
    int images;
    int64_t y0, x0;          // of the tile in the image
    int blocks_h, blocks_w;  // of 2x2 pixels in the tile, at the image's edge fewer
};

template <int dims>
inline Region region_of(constant FwWtArgs& args, uint channel, uint unit) {
    const uint tiles = uint(args.tiles_h) * uint(args.tiles_w), tile = unit % tiles;
    Region r;
    r.channel = channel;
    r.image = int64_t(unit / tiles) * args.group;
    r.images = int(min(int64_t(args.group), args.n - r.image));
    r.y0 = int64_t(tile / uint(args.tiles_w)) * args.tile_h;
    r.x0 = int64_t(tile % uint(args.tiles_w)) * args.tile_w;
    r.blocks_h = int(min(int64_t(args.tile_h), args.height - r.y0) + 1) / 2;
    r.blocks_w = int(min(int64_t(args.tile_w), args.width - r.x0) + 1) / 2;
    return r;
}

// One of a region's images, from the tile's first pixel on.
template <typename T>
inline Direct<T> image_of(const device T* data, int64_t stride_n, int64_t stride_c,
                          int64_t stride_h, int64_t stride_w, constant FwWtArgs& args,
                          const thread Region& r, int image) {
    Direct<T> d;
    d.data = data + (r.image + image) * stride_n + r.channel * stride_c + r.y0 * stride_h +
             r.x0 * stride_w;
    d.stride_h = stride_h, d.stride_w = stride_w;
    d.height = args.height - r.y0, d.width = args.width - r.x0;
    d.y0 = r.y0, d.x0 = r.x0;
    return d;
}

template <typename T>
inline Direct<T> x_of(const device T* x, constant FwWtArgs& args, const thread Region& r,
                      int image) {
    return image_of(x, args.x_n, args.x_c, args.x_h, args.x_w, args, r, image);
}

inline Staged stored(const threadgroup float* shared, constant FwWtArgs& args, int image, int level,
                     int offset) {
    constant FwWtLevel& l = args.level[level];
    Staged s = {shared + image * args.image + offset, l.rows, l.row};
    return s;
}

inline Staged low_of(const threadgroup float* shared, constant FwWtArgs& args, int image,
                     int level) {
    return stored(shared, args, image, level, args.level[level].low);
}

inline Staged recon_of(const threadgroup float* shared, constant FwWtArgs& args, int image,
                       int level) {
    return stored(shared, args, image, level, args.level[level].recon);
}

// Brings the region of x, its halo included, into threadgroup memory.
template <typename T>
inline void stage_x(const device T* x, threadgroup float* shared, constant FwWtArgs& args,
                    const thread Region& r, uint index, uint threads) {
    constant FwWtLevel& l = args.level[0];
    const int size = l.rows * l.row;
    for (int p = index; p < size * r.images; p += threads) {
        const int image = p / size, place = p % size;
        const Direct<T> from = x_of(x, args, r, image);
        shared[image * args.image + l.low + place] =
            from.at(place / l.row - args.halo_h, place % l.row - args.halo_w);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}

// The low bands of a stored pyramid, from the image that level `from` - 1 transforms on down.
// `recon`: of the pyramid in the places of the results.
template <int dims>
inline void stage_lows(threadgroup float* shared, constant FwWtArgs& args, const thread Region& r,
                       int from, bool recon, uint index, uint threads) {
    for (int level = from; level < args.levels; ++level) {
        constant FwWtLevel& l = args.level[level];
        const int size = l.rows * l.row;
        for (int p = index; p < size * r.images; p += threads) {
            const int image = p / size, place = p % size;
            const Staged above = recon ? recon_of(shared, args, image, level - 1)
                                       : low_of(shared, args, image, level - 1);
            const Block v = above.block<dims>(place / l.row, place % l.row);
            shared[image * args.image + (recon ? l.recon : l.low) + place] = haar<dims>(v).a;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

// How far the filter reaches before the place that it is for.
inline int reach_before(constant FwWtArgs& args) {
    return args.flipped ? args.kernel_size / 2 : (args.kernel_size - 1) / 2;
}

// The low band alone, in fp32: the image of the next step.
template <typename T, int dims>
inline void wt_low(const device T* x, device float* low, constant FwHaarArgs& args, uint3 at,
                   uint3 grid) {
    const int64_t h = (args.height + 1) / 2, w = (args.width + 1) / 2;
    FW_FOR_BLOCKS(args, at, grid) {
        low[(plane * h + i) * w + j] = haar<dims>(load_block<T, dims>(x, args, plane, i, j)).a;
    }
}
