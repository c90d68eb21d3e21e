// A block's work on the planes of a wavelet convolution in shared memory: loading, the Haar
// cascade, and filters on strips of four columns.
#pragma once

#include "element.cuh"
#include "launch.h"
#include "wtconv_plan.h"

namespace fusewright::cuda {

// An image (N, C, H, W) of any strides; in one dimension the batch takes the place of the height.
struct WtImage {
    Untyped data;
    int64_t n = 0, channel = 0, y = 0, x = 0;  // strides
    bool packs = false;                        // four elements of a row may be one access

    __device__ int64_t operator()(int64_t image, int64_t c) const {
        return image * n + c * channel;
    }
};

struct WtParameters {
    Untyped base_weight, base_bias, base_scale, weights[kWtLevels], scales[kWtLevels];
    bool flipped = false;  // for the gradient of x
};

// Calls f(plane, row, item) for the rows of `planes` planes, a power of two of lanes on a row.
template <class F>
__device__ inline void for_rows(int planes, int rows, int items, F&& f) {
    const int shift = items >= 32 ? 5 : 32 - __clz(max(items, 1) - 1);
    const int lane = threadIdx.x & ((1 << shift) - 1);
    for (unsigned r = threadIdx.x >> shift; r < static_cast<unsigned>(planes * rows);
         r += blockDim.x >> shift) {
        const unsigned plane = r / rows;
        for (int i = lane; i < items; i += 1 << shift) f(plane, r - plane * rows, i);
    }
}

// The planes of a level: those of a plane index g * bands + band lie `size` apart.
template <class A>
struct WtPlanes {
    A* first;  // row 0, column 0 of plane 0
    int size, stride;
    __device__ A* row(int plane, int y) const { return first + plane * size + y * stride; }
};

template <class A>
__device__ inline WtPlanes<A> padded(A* shared, const WtPlan& plan, int l) {
    const WtLevel& level = plan.level[l];
    return {shared + level.in + plan.before_y * level.rs + plan.left, level.plane, level.rs};
}
template <class A>
__device__ inline WtPlanes<A> dense(A* shared, const WtPlan& plan, int l) {
    return {shared + plan.level[l].out, plan.level[l].tile, plan.level[l].ts};
}

template <class A>
struct alignas(2 * sizeof(A)) Two {
    A a, b;
};
template <class A>
__device__ inline Two<A> two(const A* p) {
    return *reinterpret_cast<const Two<A>*>(p);
}

// Loads h by w elements from (y0, x0) on, zeros outside of the image.
template <class A>
__device__ inline void load_planes(const WtPlan& plan, const WtImage& image, int64_t first,
                                   int64_t channel, int64_t y0, int64_t x0, int h, int w,
                                   const WtPlanes<A>& to) {
    const int planes = static_cast<int>(min(int64_t{plan.group}, plan.n - first));
    if constexpr (std::is_same_v<A, float>) {
        if (image.packs && w % 4 == 0) {
            for_rows(planes, h, w / 4, [&](int g, int r, int i) {
                const int64_t y = y0 + r, x = x0 + 4 * i;
                float v[4] = {0, 0, 0, 0};
                if (0 <= y && y < plan.height && 0 <= x && x < plan.width) {
                    load_pack(image.data, image(first + g, channel) + y * image.y + x, v);
                }
                A* out = to.row(g, r) + 4 * i;
                *reinterpret_cast<Two<A>*>(out) = {v[0], v[1]};
                *reinterpret_cast<Two<A>*>(out + 2) = {v[2], v[3]};
            });
            return;
        }
    }
    for_rows(planes, h, w, [&](int g, int r, int i) {
        const int64_t y = y0 + r, x = x0 + i;
        const bool inside = 0 <= y && y < plan.height && 0 <= x && x < plan.width;
        to.row(g, r)[i] =
            inside ? load_one<A>(image.data, image(first + g, channel) + y * image.y + x * image.x)
                   : A(0);
    });
}

// One level of the Haar transform, from planes `band` bands apart to `bands` planes each; the rows
// end with at least one zero where their number is odd.
template <int dims, class A>
__device__ inline void haar_planes(int planes, int step, int above, const WtPlanes<A>& from, int h,
                                   int w, const WtPlanes<A>& to) {
    constexpr int bands = 1 << dims;
    for_rows(planes, h, w, [&](int g, int i, int j) {
        if constexpr (dims == 2) {
            const Two<A> p = two(from.row(g * step, 2 * i) + 2 * j);
            Two<A> q{A(0), A(0)};
            if (2 * i + 1 < above) q = two(from.row(g * step, 2 * i + 1) + 2 * j);
            const A top = p.a + p.b, bottom = q.a + q.b, left = p.a - p.b, right = q.a - q.b;
            to.row(g * bands, i)[j] = A(0.5) * (top + bottom);
            to.row(g * bands + 1, i)[j] = A(0.5) * (top - bottom);
            to.row(g * bands + 2, i)[j] = A(0.5) * (left + right);
            to.row(g * bands + 3, i)[j] = A(0.5) * (left - right);
        } else {
            const Two<A> p = two(from.row(g * step, i) + 2 * j);
            to.row(g * bands, i)[j] = A(0.70710678118654752) * (p.a + p.b);
            to.row(g * bands + 1, i)[j] = A(0.70710678118654752) * (p.a - p.b);
        }
    });
}

// All levels below the one that was loaded.
template <int dims, class A>
__device__ inline void cascade(A* shared, const WtPlan& plan, bool of_tile) {
    for (int l = 1; l <= plan.levels; ++l) {
        const WtLevel &level = plan.level[l], &upper = plan.level[l - 1];
        const int step = l == 1 ? 1 : 1 << dims;
        if (of_tile) {
            haar_planes<dims>(plan.group, step, upper.th, dense(shared, plan, l - 1), level.th,
                              level.tw, dense(shared, plan, l));
        } else {
            haar_planes<dims>(plan.group, step, upper.h, padded(shared, plan, l - 1), level.h,
                              level.w, padded(shared, plan, l));
        }
        __syncthreads();
    }
}

// The element at (y, x..x+1), x even, of the inverse transform of four (two) bands of a plane.
template <int dims, class A>
__device__ inline Two<A> inverse_pair(const WtPlanes<A>& bands, int plane, int y, int x) {
    constexpr int count = 1 << dims;
    if constexpr (dims == 2) {
        const int i = y / 2, j = x / 2;
        const A sign = y % 2 == 0 ? A(0.5) : A(-0.5);
        const A p =
            A(0.5) * bands.row(plane * count, i)[j] + sign * bands.row(plane * count + 1, i)[j];
        const A q =
            A(0.5) * bands.row(plane * count + 2, i)[j] + sign * bands.row(plane * count + 3, i)[j];
        return {p + q, p - q};
    } else {
        const A p = bands.row(plane * count, y)[x / 2], q = bands.row(plane * count + 1, y)[x / 2];
        return {A(0.70710678118654752) * (p + q), A(0.70710678118654752) * (p - q)};
    }
}

// What job `index` is to do.
struct WtJob {
    int level, plane, filter, row, column;  // the tile's row and column
};

template <class A>
struct WtTable {
    unsigned* entries;
    __device__ WtTable(A* shared, const WtPlan& plan)
        : entries(reinterpret_cast<unsigned*>(shared + plan.table)) {}

    // Jobs are ordered by filter; those of level 0 come last, from index `base` on.
    __device__ static int base(const WtPlan& plan) {
        return plan.jobs - plan.group * plan.level[0].strips * plan.level[0].segs;
    }
    __device__ void fill(const WtPlan& plan) const {
        const int bands = 1 << plan.dims;
        for (int job = threadIdx.x; job < plan.jobs; job += blockDim.x) {
            int l = 0, band = 0, rest = job - base(plan);
            if (rest < 0) {
                rest = job;
                for (l = 1;; ++l) {
                    const int count =
                        plan.group * bands * plan.level[l].strips * plan.level[l].segs;
                    if (rest < count) break;
                    rest -= count;
                }
                const int each = plan.group * plan.level[l].strips * plan.level[l].segs;
                band = rest / each;
                rest %= each;
            }
            const WtLevel& level = plan.level[l];
            const int strip = rest % level.strips, seg = rest / level.strips % level.segs;
            const int g = rest / level.strips / level.segs;
            entries[job] = l | band << 4 | g << 6 | seg << 11 | strip << 21;
        }
    }
    __device__ WtJob operator()(const WtPlan& plan, int job) const {
        const unsigned e = entries[job];
        const int l = e & 15, band = e >> 4 & 3, g = e >> 6 & 31;
        const int bands = 1 << plan.dims;
        return {l, l == 0 ? g : g * bands + band, l == 0 ? 0 : 1 + (l - 1) * bands + band,
                static_cast<int>(e >> 11 & 1023) * plan.rows, static_cast<int>(e >> 21) * 4};
    }
};

// The filters of a channel with their scales, and the bias with its own behind them.
template <class A>
__device__ inline void load_weights(A* weights, const WtPlan& plan, const WtParameters& p,
                                    int64_t channel) {
    const int taps = plan.dims == 2 ? plan.kernel * plan.kernel : plan.kernel;
    const int bands = 1 << plan.dims, filters = 1 + plan.levels * bands;
    for (int i = threadIdx.x; i < filters * taps; i += blockDim.x) {
        const int filter = i / taps, tap = p.flipped ? taps - 1 - i % taps : i % taps;
        const int l = (filter - 1) / bands;
        A v = 0;
        if (filter > 0) {
            const int64_t band = channel * bands + (filter - 1) % bands;
            v = load_one<A>(p.weights[l], band * taps + tap) * load_one<A>(p.scales[l], band);
        } else if (p.base_weight) {
            v = load_one<A>(p.base_weight, channel * taps + tap) *
                load_one<A>(p.base_scale, channel);
        }
        weights[i] = v;
    }
    if (threadIdx.x == 0) {
        weights[filters * taps] =
            p.base_bias ? load_one<A>(p.base_bias, channel) * load_one<A>(p.base_scale, channel)
                        : A(0);
    }
}

// The vectors of four that a strip's row needs, for a filter of K.
template <int K>
struct WtReach {
    static constexpr int before = (K - 1) / 2, left = (before + 1) / 2 * 2;
    static constexpr int vectors = (left + 4 + K - 1 - before + 3) / 4, skip = left - before;
};

template <class A>
struct alignas(4 * sizeof(A) > 16 ? 16 : 4 * sizeof(A)) Four {
    A v[4];
};
template <int vectors, class A>
__device__ inline void load_strip(const A* p, A (&v)[4 * vectors]) {
#pragma unroll
    for (int i = 0; i < vectors; ++i) {
        const auto four = reinterpret_cast<const Four<A>*>(p)[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[4 * i + j] = four.v[j];
    }
}

// Filters the strip at (row, column) of the region: kWtRows rows of four columns. K = 0 is for any.
template <int K, int dims, class A>
__device__ inline void filter_strip(const WtPlan& plan, const WtPlanes<A>& in, int plane, int row,
                                    int column, const A* weights, A (&acc)[kWtRows][4]) {
    const A* from = in.row(plane, row - plan.before_y) + column - plan.left;
    if constexpr (K > 0) {
        constexpr int height = dims == 2 ? K : 1, vectors = WtReach<K>::vectors;
        A w[height * K];
#pragma unroll
        for (int i = 0; i < height * K; ++i) w[i] = weights[i];
#pragma unroll
        for (int i = 0; i < kWtRows + height - 1; ++i) {
            A v[4 * vectors];
            load_strip<vectors>(from + i * in.stride, v);
#pragma unroll
            for (int u = 0; u < height; ++u) {
                const int r = i - u;
                if (r < 0 || r >= kWtRows) continue;
#pragma unroll
                for (int t = 0; t < K; ++t) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        acc[r][j] += w[u * K + t] * v[WtReach<K>::skip + t + j];
                    }
                }
            }
        }
    } else {
        const int height = dims == 2 ? plan.kernel : 1, skip = plan.left - plan.before;
        for (int u = 0; u < height; ++u) {
            for (int t = 0; t < plan.kernel; ++t) {
                const A w = weights[u * plan.kernel + t];
#pragma unroll
                for (int r = 0; r < kWtRows; ++r) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        acc[r][j] += w * from[(r + u) * in.stride + skip + t + j];
                    }
                }
            }
        }
    }
}

}  // namespace fusewright::cuda
