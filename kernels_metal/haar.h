// One level of the Haar transform and its inverse, in one or two dimensions: a thread has a block
// of 2x2 pixels, or of 2.
#pragma once

#include "dtype.h"

constant float kHalfRoot = 0.70710678118654752f;

// A block a b / c d; in one dimension a b alone.
struct Block {
    float a, b, c, d;
};

// The bands LL, LH, HL, HH of a block, or low and high; also the block of such bands.
template <int dims>
inline Block haar(Block v) {
    Block r = {0, 0, 0, 0};
    if (dims == 2) {
        const float top = v.a + v.b, bottom = v.c + v.d, left = v.a - v.b, right = v.c - v.d;
        r.a = 0.5f * (top + bottom);
        r.b = 0.5f * (top - bottom);
        r.c = 0.5f * (left + right);
        r.d = 0.5f * (left - right);
    } else {
        r.a = (v.a + v.b) * kHalfRoot;
        r.b = (v.a - v.b) * kHalfRoot;
    }
    return r;
}

template <int dims>
inline Block ihaar(Block v) {
    Block r = {0, 0, 0, 0};
    if (dims == 2) {
        const float low = v.a + v.b, high = v.c + v.d, low_diff = v.a - v.b, high_diff = v.c - v.d;
        r.a = 0.5f * (low + high);
        r.b = 0.5f * (low - high);
        r.c = 0.5f * (low_diff + high_diff);
        r.d = 0.5f * (low_diff - high_diff);
    } else {
        r = haar<1>(v);
    }
    return r;
}

// For the blocks (i, j) of every plane that a thread has, as plan.h's haar_dispatch lays them out.
#define FW_FOR_BLOCKS(args, at, grid)                                \
    for (int64_t plane = at.z; plane < args.planes; plane += grid.z) \
        for (int64_t i = at.y; 2 * i < args.height; i += grid.y)     \
            for (int64_t j = at.x; 2 * j < args.width; j += grid.x)

// The block (i, j) of an image, zero outside it.
template <typename T, int dims>
inline Block load_block(const device T* x, constant FwHaarArgs& args, int64_t plane, int64_t i,
                        int64_t j) {
    const uint n = uint(plane) / uint(args.channels), c = uint(plane) % uint(args.channels);
    const int64_t at =
        n * args.stride_n + c * args.stride_c + 2 * i * args.stride_h + 2 * j * args.stride_w;
    const bool right = 2 * j + 1 < args.width, below = dims == 2 && 2 * i + 1 < args.height;
    Block v = {to_acc(x[at]), 0, 0, 0};
    if (right) v.b = to_acc(x[at + args.stride_w]);
    if (below) v.c = to_acc(x[at + args.stride_h]);
    if (right && below) v.d = to_acc(x[at + args.stride_h + args.stride_w]);
    return v;
}

template <typename T, int dims>
inline void haar_forward(const device T* x, device T* y, constant FwHaarArgs& args, uint3 at,
                         uint3 grid) {
    const int64_t w = (args.width + 1) / 2, size = (args.height + 1) / 2 * w;
    FW_FOR_BLOCKS(args, at, grid) {
        const Block bands = haar<dims>(load_block<T, dims>(x, args, plane, i, j));
        device T* to = y + (plane << dims) * size + i * w + j;
        to[0] = from_acc<T>(bands.a);
        to[size] = from_acc<T>(bands.b);
        if (dims == 2) {
            to[2 * size] = from_acc<T>(bands.c);
            to[3 * size] = from_acc<T>(bands.d);
        }
    }
}

template <typename T, int dims>
inline void haar_inverse(const device T* x, device T* y, constant FwHaarArgs& args, uint3 at,
                         uint3 grid) {
    FW_FOR_BLOCKS(args, at, grid) {
        const uint n = uint(plane) / uint(args.channels), c = uint(plane) % uint(args.channels);
        const int64_t band = args.stride_c;
        const device T* from = x + n * args.stride_n + (int64_t(c) << dims) * band +
                               i * args.stride_h + j * args.stride_w;
        Block bands = {to_acc(from[0]), to_acc(from[band]), 0, 0};
        if (dims == 2) {
            bands.c = to_acc(from[2 * band]);
            bands.d = to_acc(from[3 * band]);
        }
        const Block v = ihaar<dims>(bands);
        const bool right = 2 * j + 1 < args.width, below = dims == 2 && 2 * i + 1 < args.height;
        device T* to = y + (plane * args.height + 2 * i) * args.width + 2 * j;
        to[0] = from_acc<T>(v.a);
        if (right) to[1] = from_acc<T>(v.b);
        if (below) to[args.width] = from_acc<T>(v.c);
        if (right && below) to[args.width + 1] = from_acc<T>(v.d);
    }
}
