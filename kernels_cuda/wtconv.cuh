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

// The planes of a level: a plane a band for every image of the group.
template <class A>
struct WtPlanes {
    A* first;  // row 0, column 0 of the first
    int image, band, stride;
    __device__ A* row(int g, int b, int y) const {
        return first + g * image + b * band + y * stride;
    }
};

template <class A>
__device__ inline WtPlanes<A> padded(A* shared, const WtPlan& plan, int l) {
    const WtLevel& level = plan.level[l];
    return {shared + level.in + plan.before_y * level.rs + plan.left, level.in_step, level.plane,
            level.rs};
}
template <class A>
__device__ inline WtPlanes<A> dense(A* shared, const WtPlan& plan, int l) {
    const WtLevel& level = plan.level[l];
    return {shared + level.out, level.out_step, level.tile, level.ts};
}

template <class A>
struct alignas(2 * sizeof(A)) Two {
    A a, b;
};
template <class A>
__device__ inline Two<A> two(const A* p) {
    return *reinterpret_cast<const Two<A>*>(p);
}

// The planes of every image are a team's: f(image of the group) for those of this thread's.
template <class F>
__device__ inline void for_images(const WtPlan& plan, int count, F&& f) {
    for (int g = threadIdx.x / plan.team; g < count; g += blockDim.x / plan.team) f(g);
}

// A load: row and column of the region, or nothing outside of the image; the place in the plane.
struct WtLoad {
    int pixel, place;
    static constexpr int kOutside = -1;
};

// What does not change from image to image is worked out once a block.
template <class A>
struct WtTables {
    A* shared;
    const WtPlan& plan;

    __device__ WtLoad* loads(bool grad) const {
        return reinterpret_cast<WtLoad*>(shared + (grad ? plan.grad_loads : plan.loads));
    }
    __device__ unsigned* steps(const WtLevel& level, bool dense) const {
        return reinterpret_cast<unsigned*>(shared +
                                           (dense ? level.dense_steps : level.padded_steps));
    }

    // The loads of the region, or of the tile, that begins at (y0, x0) of the image.
    __device__ void fill_loads(bool grad, int64_t y0, int64_t x0) const {
        const WtLevel& level = plan.level[0];
        const int w = grad ? level.tw : level.w, each = (w + plan.vector - 1) / plan.vector;
        const int count = grad ? plan.grad_load_count : plan.load_count;
        const int stride = grad ? level.ts : level.rs;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int r = i / each, c = (i - r * each) * plan.vector;
            const int64_t y = y0 + r, x = x0 + c;
            const bool inside = 0 <= y && y < plan.height && 0 <= x && x < plan.width;
            loads(grad)[i] = {inside ? r << 16 | c : WtLoad::kOutside, r * stride + c};
        }
    }

    // Two blocks of a level, side by side, and their pixels above: offsets in their planes.
    __device__ void fill_steps(int l, bool dense) const {
        const WtLevel &level = plan.level[l], &upper = plan.level[l - 1];
        const int each = ((dense ? level.tw : level.w) + 1) / 2;
        const int count = dense ? level.dense_count : level.padded_count;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int r = i / each, c = 2 * (i - r * each), y = plan.dims == 2 ? 2 * r : r;
            const int above = y * (dense ? upper.ts : upper.rs) + 2 * c;
            steps(level, dense)[i] = above << 16 | (r * (dense ? level.ts : level.rs) + c);
        }
    }
};

// Loads the planes of the images from `first` on, the region that begins at (y0, x0).
template <class A>
__device__ inline void load_planes(const WtTables<A>& tables, bool grad, const WtImage& image,
                                   int64_t first, int64_t channel, int64_t y0, int64_t x0,
                                   const WtPlanes<A>& to) {
    const WtPlan& plan = tables.plan;
    const int images = static_cast<int>(min(int64_t{plan.group}, plan.n - first));
    const int count = grad ? plan.grad_load_count : plan.load_count;
    const WtLoad* loads = tables.loads(grad);
    const int lane = threadIdx.x % plan.team;
    with_element<sizeof(A) == 8>(image.data.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        for_images(plan, images, [&](int g) {
            const T* from = static_cast<const T*>(image.data.data) + image(first + g, channel) +
                            y0 * image.y + x0 * image.x;
            A* plane = to.first + g * to.image;
            if (plan.vector == 4) {
                constexpr int kFlight = 4;  // loads in flight
                for (int i = lane; i < count; i += kFlight * plan.team) {
                    Pack<T, 4> packs[kFlight];
                    int places[kFlight];
#pragma unroll
                    for (int k = 0; k < kFlight; ++k) {
                        packs[k] = Pack<T, 4>{};
                        places[k] = -1;
                        if (i + k * plan.team >= count) continue;
                        const WtLoad load = loads[i + k * plan.team];
                        places[k] = load.place;
                        if (load.pixel == WtLoad::kOutside) continue;
                        packs[k] = *reinterpret_cast<const Pack<T, 4>*>(
                            from + (load.pixel >> 16) * image.y + (load.pixel & 0xffff));
                    }
#pragma unroll
                    for (int k = 0; k < kFlight; ++k) {
                        if (places[k] < 0) continue;
                        A v[4];
#pragma unroll
                        for (int j = 0; j < 4; ++j) v[j] = static_cast<A>(to_acc(packs[k][j]));
                        *reinterpret_cast<Two<A>*>(plane + places[k]) = {v[0], v[1]};
                        *reinterpret_cast<Two<A>*>(plane + places[k] + 2) = {v[2], v[3]};
                    }
                }
            } else {
#pragma unroll 4
                for (int i = lane; i < count; i += plan.team) {
                    const WtLoad load = loads[i];
                    A v = 0;
                    if (load.pixel != WtLoad::kOutside) {
                        v = static_cast<A>(to_acc(
                            from[(load.pixel >> 16) * image.y + (load.pixel & 0xffff) * image.x]));
                    }
                    plane[load.place] = v;
                }
            }
        });
    });
}

// The pixels and bands of two blocks side by side. The transform is its own inverse but for the
// order: band 1 is high along the height, the second pixel is along the width.
template <int dims, class A>
struct WtBlocks {
    // From pixels to bands.
    __device__ static void analyse(const A* from, int stride, A* to, int size) {
        const Two<A> p = two(from), q = two(from + 2);
        if constexpr (dims == 2) {
            const Two<A> r = two(from + stride), s = two(from + stride + 2);
            const Quad left = quad(p, r), right = quad(q, s);
#pragma unroll
            for (int band = 0; band < 4; ++band)
                write(to + band * size, left.v[band], right.v[band]);
        } else {
            constexpr A k = A(0.70710678118654752);
            write(to, k * (p.a + p.b), k * (q.a + q.b));
            write(to + size, k * (p.a - p.b), k * (q.a - q.b));
        }
    }

    // From bands to pixels, added to what is there.
    __device__ static void synthesise(const A* from, int size, A* to, int stride) {
        const Two<A> ll = two(from), lh = two(from + size);
        if constexpr (dims == 2) {
            const Two<A> hl = two(from + 2 * size), hh = two(from + 3 * size);
            const Quad p = quad({ll.a, hl.a}, {lh.a, hh.a}), q = quad({ll.b, hl.b}, {lh.b, hh.b});
            add(to, p.v[0], p.v[2]), add(to + 2, q.v[0], q.v[2]);
            add(to + stride, p.v[1], p.v[3]), add(to + stride + 2, q.v[1], q.v[3]);
        } else {
            constexpr A k = A(0.70710678118654752);
            add(to, k * (ll.a + lh.a), k * (ll.a - lh.a));
            add(to + 2, k * (ll.b + lh.b), k * (ll.b - lh.b));
        }
    }

  private:
    struct Quad {
        A v[4];
    };
    __device__ static Quad quad(Two<A> top, Two<A> bottom) {
        const A p = A(0.5) * (top.a + top.b), q = A(0.5) * (bottom.a + bottom.b);
        const A r = A(0.5) * (top.a - top.b), s = A(0.5) * (bottom.a - bottom.b);
        return {{p + q, p - q, r + s, r - s}};
    }
    __device__ static void write(A* to, A a, A b) { *reinterpret_cast<Two<A>*>(to) = {a, b}; }
    __device__ static void add(A* to, A a, A b) { write(to, to[0] + a, to[1] + b); }
};

// Every level from the one above it, from level 1 down.
template <int dims, class A>
__device__ inline void cascade(const WtTables<A>& tables, bool of_tile) {
    const WtPlan& plan = tables.plan;
    for (int l = 1; l <= plan.levels; ++l) {
        const WtLevel& level = plan.level[l];
        const WtPlanes<A> from =
            of_tile ? dense(tables.shared, plan, l - 1) : padded(tables.shared, plan, l - 1);
        const WtPlanes<A> to =
            of_tile ? dense(tables.shared, plan, l) : padded(tables.shared, plan, l);
        const unsigned* steps = tables.steps(level, of_tile);
        const int count = of_tile ? level.dense_count : level.padded_count;
        const int lane = threadIdx.x % plan.team;
        if (lane < count) {
            for_images(plan, plan.group, [&](int g) {
                for (int i = lane; i < count; i += plan.team) {
                    const unsigned e = steps[i];
                    WtBlocks<dims, A>::analyse(from.row(g, 0, 0) + (e >> 16), from.stride,
                                               to.row(g, 0, 0) + (e & 0xffff), to.band);
                }
            });
        }
        __syncthreads();
    }
}

// What job `index` is to do.
struct WtJob {
    int level, image, band, filter, row, column;  // the tile's row and column
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
            // neighbours are strips of a row, then the same rows of other images
            const int strip = rest % level.strips, g = rest / level.strips % plan.group;
            const int seg = rest / level.strips / plan.group;
            entries[job] = l | band << 4 | g << 6 | seg << 11 | strip << 21;
        }
    }
    __device__ WtJob operator()(const WtPlan& plan, int job) const {
        const unsigned e = entries[job];
        const int l = e & 15, band = e >> 4 & 3, g = e >> 6 & 31;
        const int bands = 1 << plan.dims;
        return {l,
                g,
                band,
                l == 0 ? 0 : 1 + (l - 1) * bands + band,
                static_cast<int>(e >> 11 & 1023) * plan.level[l].rows,
                static_cast<int>(e >> 21) * 4};
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

// Filters the strip at (row, column) of the region, some rows of four columns. K = 0 is for any.
template <int K, int dims, int rows, class A>
__device__ inline void filter_strip(const WtPlan& plan, const WtPlanes<A>& in, const WtJob& job,
                                    int row, int column, const A* weights, A (&acc)[rows][4]) {
    const A* from = in.row(job.image, job.band, row - plan.before_y) + column - plan.left;
    if constexpr (K > 0) {
        constexpr int height = dims == 2 ? K : 1, vectors = WtReach<K>::vectors;
        A w[height * K];
#pragma unroll
        for (int i = 0; i < height * K; ++i) w[i] = weights[i];
#pragma unroll
        for (int i = 0; i < rows + height - 1; ++i) {
            A v[4 * vectors];
            load_strip<vectors>(from + i * in.stride, v);
#pragma unroll
            for (int u = 0; u < height; ++u) {
                const int r = i - u;
                if (r < 0 || r >= rows) continue;
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
                for (int r = 0; r < rows; ++r) {
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
