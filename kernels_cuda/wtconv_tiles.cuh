// A block's work on the tiles of a wavelet convolution: squares of 4 x 4 pixels go from device
// memory through two levels of the Haar transform in registers to the planes in shared memory, and
// back the same way; the levels below the second are transformed in shared memory.
#pragma once

#include "wtconv.cuh"
#include "wtconv_tiles_plan.h"

namespace fusewright::cuda {

// The image of a block: its first channel, its first pixel, and the first image that it takes.
struct TileBlock {
    int channel, chunk, tile, y, x;
    __device__ explicit TileBlock(const TilePlan& plan) {
        int i = static_cast<int>(blockIdx.x);
        channel = i % plan.groups() * plan.group, i /= plan.groups();
        tile = i % plan.tiles(), chunk = i / plan.tiles();
        y = tile / plan.tiles_x * plan.tile_h, x = tile % plan.tiles_x * plan.tile_w;
    }
};

// `count` is a multiple of 4.
__device__ inline void clear(float* shared, int count) {
    for (int i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
        *reinterpret_cast<float4*>(shared + i) = {0, 0, 0, 0};
    }
}

// The squares of the tile: channel, row and column, with or without those around the tile.
__device__ inline void fill_squares(unsigned* table, const TilePlan& plan, int margin) {
    const int rows = plan.squares_y + 2 * margin, columns = plan.squares_x + 2 * margin;
    const int each = rows * columns, count = plan.group * each;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int g = plan.interleaved ? i % plan.group : i / each;
        const int square = plan.interleaved ? i / plan.group : i - g * each;
        const int y = square / columns, x = square - y * columns;
        table[i] = g << 20 | y << 10 | x;
    }
}

struct TileSquare {
    int g, y, x;
    __device__ TileSquare(unsigned entry, int margin)
        : g(static_cast<int>(entry >> 20)),
          y(static_cast<int>(entry >> 10 & 1023) - margin),
          x(static_cast<int>(entry & 1023) - margin) {}
};

// An image as a block sees it: offsets within a tile's channels have 32 bits.
struct TileImage {
    Untyped data;
    int64_t n, channel, y, x;
    int vector;  // elements of a row that are one access

    // The first pixel of the block's tile of its first channel.
    __device__ int64_t first(const TileBlock& block, int64_t image) const {
        return image * n + block.channel * channel + block.y * y + block.x * x;
    }
    __device__ int offset(const TileSquare& square) const {
        return square.g * static_cast<int>(channel) + 4 * square.y * static_cast<int>(y) +
               4 * square.x * static_cast<int>(x);
    }
};

template <int V, class T>
__device__ inline void load_square(const TileImage& image, const TilePlan& plan, const T* from,
                                   int y, int x, float (&v)[4][4]) {
    Pack<T, V> packs[4][4 / V];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        // as unsigned numbers, those before the image are beyond it
        const bool inside = static_cast<unsigned>(y + r) < static_cast<unsigned>(plan.height);
#pragma unroll
        for (int j = 0; j < 4 / V; ++j) {
            packs[r][j] = Pack<T, V>{};
            if (inside && static_cast<unsigned>(x + j * V) < static_cast<unsigned>(plan.width)) {
                packs[r][j] =
                    *reinterpret_cast<const Pack<T, V>*>(from + j * V * static_cast<int>(image.x));
            }
        }
        from += static_cast<int>(image.y);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int j = 0; j < 4; ++j) v[r][j] = to_acc(packs[r][j / V][j % V]);
    }
}

template <int V, class T>
__device__ inline void store_square(const TileImage& image, const TilePlan& plan, T* to, int y,
                                    int x, const float (&v)[4][4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if (y + r >= plan.height) break;
#pragma unroll
        for (int j = 0; j < 4 / V; ++j) {
            if (x + j * V >= plan.width) break;
            Pack<T, V> pack;
#pragma unroll
            for (int k = 0; k < V; ++k) pack[k] = from_acc<T>(v[r][j * V + k]);
            *reinterpret_cast<Pack<T, V>*>(to + j * V * static_cast<int>(image.x)) = pack;
        }
        to += static_cast<int>(image.y);
    }
}

// Calls f with the elements' type and the length of an access, as a constant.
template <class F>
__device__ inline void with_access(const TileImage& image, F&& f) {
    with_element<false>(image.data.dtype, [&](auto* type) {
        if (image.vector == 4) {
            f(type, std::integral_constant<int, 4>{});
        } else if (image.vector == 2) {
            f(type, std::integral_constant<int, 2>{});
        } else {
            f(type, std::integral_constant<int, 1>{});
        }
    });
}

// Twice the Haar bands of a b / c d; transposed, what makes the pixels of the bands a, c, b, d. The
// factors of all levels are in the filters.
__device__ inline void haar(float a, float b, float c, float d, float (&v)[4]) {
    const float p = a + b, q = c + d, r = a - b, s = c - d;
    v[0] = p + q, v[1] = p - q, v[2] = r + s, v[3] = r - s;
}

// Four elements of a row, whose pixel 0 has `left` in front. Where they are two accesses, of lanes
// 16 bytes apart, half of the lanes take the second first: else each would meet in half of the
// banks. `turn` says who, in the same way for all rows of a lane.
__device__ inline bool bank_turn(const float* at) {
    const auto bytes = static_cast<unsigned>(__cvta_generic_to_shared(at));
    return (bytes >> 7 ^ bytes >> 9) & 1;
}
template <int left>
__device__ inline void store_four(float* to, bool turn, float a, float b, float c, float d) {
    if constexpr (left % 4 == 0) {
        *reinterpret_cast<float4*>(to) = {a, b, c, d};
    } else {
        *reinterpret_cast<float2*>(to + (turn ? 2 : 0)) = turn ? float2{c, d} : float2{a, b};
        *reinterpret_cast<float2*>(to + (turn ? 0 : 2)) = turn ? float2{a, b} : float2{c, d};
    }
}
template <int left>
__device__ inline float4 load_four(const float* at, bool turn) {
    if constexpr (left % 4 == 0) {
        return *reinterpret_cast<const float4*>(at);
    } else {
        const auto p = *reinterpret_cast<const float2*>(at + (turn ? 2 : 0));
        const auto q = *reinterpret_cast<const float2*>(at + (turn ? 0 : 2));
        return turn ? float4{q.x, q.y, p.x, p.y} : float4{p.x, p.y, q.x, q.y};
    }
}

// Planes with `before` rows and `left` columns in front of the first pixel. Squares around the tile
// reach beyond them.
template <int before, int left, bool guarded>
struct TileStore {
    float* shared;
    const TilePlanes& to;
    __device__ bool holds(int y, int x) const {
        return !guarded || (static_cast<unsigned>(y + before) < static_cast<unsigned>(to.rows) &&
                            static_cast<unsigned>(x + left) < static_cast<unsigned>(to.row));
    }
    __device__ void pair(int band, int y, int x, float a, float b) const {
        if (!holds(y, x)) return;
        *reinterpret_cast<float2*>(shared + to.at + band * to.band + y * to.row + x) = {a, b};
    }
    __device__ void one(int band, int y, int x, float a) const {
        if (holds(y, x)) shared[to.at + band * to.band + y * to.row + x] = a;
    }
};

// Spreads a square of pixels and its two levels of bands over the planes.
template <int before, int left, bool grad, bool guarded>
__device__ inline void spread(float* own, const TilePlan& plan, const TileSquare& square,
                              const float (&v)[4][4]) {
    const auto planes = [&](int l) {
        return TileStore<before, left, guarded>{own, grad ? plan.level[l].grad : plan.level[l].in};
    };
    if (plan.base) {
        const auto to = planes(0);
        float* at = own + to.to.at + 4 * square.y * to.to.row + 4 * square.x;
        const bool turn = bank_turn(at);
#pragma unroll
        for (int r = 0; r < 4; ++r, at += to.to.row) {
            if constexpr (guarded && left % 4 != 0) {
                to.pair(0, 4 * square.y + r, 4 * square.x, v[r][0], v[r][1]);
                to.pair(0, 4 * square.y + r, 4 * square.x + 2, v[r][2], v[r][3]);
            } else if (to.holds(4 * square.y + r, 4 * square.x)) {
                store_four<left>(at, turn, v[r][0], v[r][1], v[r][2], v[r][3]);
            }
        }
    }
    if (plan.levels == 0) return;
    float bands[4][4];  // of the blocks 0 1 / 2 3
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const int r = k / 2 * 2, c = k % 2 * 2;
        haar(v[r][c], v[r][c + 1], v[r + 1][c], v[r + 1][c + 1], bands[k]);
    }
    const auto first = planes(1);
#pragma unroll
    for (int band = 0; band < 4; ++band) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            first.pair(band, 2 * square.y + r, 2 * square.x, bands[2 * r][band],
                       bands[2 * r + 1][band]);
        }
    }
    if (plan.levels == 1) return;
    float low[4];
    haar(bands[0][0], bands[1][0], bands[2][0], bands[3][0], low);
    const auto second = planes(2);
#pragma unroll
    for (int band = 0; band < 4; ++band) second.one(band, square.y, square.x, low[band]);
}

// Loads one image's squares of the tile, and of what is around it, into the planes.
template <int before, int left, bool grad>
__device__ inline void load_squares(float* shared, const TilePlan& plan, const TileImage& image,
                                    const TileBlock& block, int64_t n) {
    const int margin = grad ? 0 : plan.margin;
    const int count = grad ? plan.inner() : plan.squares();
    const auto* table =
        reinterpret_cast<const unsigned*>(shared + (grad ? plan.inner_table : plan.square_table));
    const int64_t first = image.first(block, n);
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const TileSquare square(table[i], margin);
        if (block.channel + square.g >= plan.channels) continue;
        float v[4][4];
        with_access(image, [&](auto* type, auto vector) {
            using T = std::remove_pointer_t<decltype(type)>;
            load_square<vector>(
                image, plan, static_cast<const T*>(image.data.data) + first + image.offset(square),
                block.y + 4 * square.y, block.x + 4 * square.x, v);
        });
        float* own = shared + square.g * (grad ? plan.grad_step : plan.step);
        if (grad || margin == 0) {
            spread<before, left, grad, false>(own, plan, square, v);
        } else {
            spread<before, left, grad, true>(own, plan, square, v);
        }
    }
}

// The levels from the third on, each from the one above it.
template <bool grad>
__device__ inline void descend(float* shared, const TilePlan& plan) {
    for (int l = 3; l <= plan.levels; ++l) {
        const TileLevel &level = plan.level[l], &above = plan.level[l - 1];
        const TilePlanes &to = grad ? level.grad : level.in, &from = grad ? above.grad : above.in;
        const int each = level.h * level.w;
        for (int i = threadIdx.x; i < plan.group * each; i += blockDim.x) {
            const int g = i / each, rest = i - g * each, y = rest / level.w, x = rest - y * level.w;
            float* own = shared + g * (grad ? plan.grad_step : plan.step);
            const float* p = own + from.at + 2 * y * from.row + 2 * x;
            const Two<float> top = two(p), bottom = two(p + from.row);
            float bands[4];
            haar(top.a, top.b, bottom.a, bottom.b, bands);
#pragma unroll
            for (int band = 0; band < 4; ++band) {
                own[to.at + band * to.band + y * to.row + x] = bands[band];
            }
        }
        __syncthreads();
    }
}

// The way back, from the deepest level to the low band of the second.
__device__ inline void ascend(float* shared, const TilePlan& plan) {
    for (int l = plan.levels; l >= 3; --l) {
        const TileLevel &level = plan.level[l], &above = plan.level[l - 1];
        const int each = level.h * level.w;
        for (int i = threadIdx.x; i < plan.group * each; i += blockDim.x) {
            const int g = i / each, rest = i - g * each, y = rest / level.w, x = rest - y * level.w;
            float* own = shared + g * plan.step;
            const float* p = own + level.in.at + y * level.in.row + x;
            float pixels[4];
            haar(p[0], p[2 * level.in.band], p[level.in.band], p[3 * level.in.band], pixels);
            float* to = own + above.in.at + 2 * y * above.in.row + 2 * x;
            // the margin stays zero
            const bool right = 2 * x + 1 < above.w, low = 2 * y + 1 < above.h;
            to[0] += pixels[0];
            if (right) to[1] += pixels[2];
            if (low) to[above.in.row] += pixels[1];
            if (right && low) to[above.in.row + 1] += pixels[3];
        }
        __syncthreads();
    }
}

// What a job reads: all offsets are of elements in shared memory.
struct TileJob {
    int level, g, filter, strip, seg;
    __device__ TileJob(const TilePlan& plan, int job) {
        level = 0;
        for (int l = 1; l <= plan.levels; ++l) {
            if (job < plan.level[l].job + plan.level[l].jobs) {
                level = l;
                break;
            }
        }
        const TileLevel& of = plan.level[level];
        const int bands = level == 0 ? 1 : 4;
        int rest = job - of.job;
        strip = rest % of.strips, rest /= of.strips;
        const int band = rest % bands;
        rest /= bands;
        g = rest % plan.group, seg = rest / plan.group * plan.passes;
        filter = level == 0 ? 0 : 1 + (level - 1) * 4 + band;
    }
    __device__ int band() const { return level == 0 ? 0 : (filter - 1) % 4; }
};

}  // namespace fusewright::cuda
