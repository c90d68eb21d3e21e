// The gradients of the filters: the bands of x against those of the output gradient. The Haar
// transform is orthonormal, so the gradient of a band's result is that band of the gradient of y.
#pragma once

#include "reduce.cuh"
#include "wtconv_host.cuh"

namespace fusewright::cuda {

template <class A>
struct WtCorrelate {
    WtImage x, grad;
    A* partial;  // [block of a channel][channel][filter][taps + 1], the last the gradient's sum
    int chunks;
};

// Adds the products of one strip of the gradient's tile with x to acc; the sum of the strip to
// `total`.
template <int K, int dims, class A>
__device__ inline void correlate_strip(const WtPlan& plan, const WtLevel& level,
                                       const WtPlanes<A>& x, const WtPlanes<A>& grad,
                                       const WtJob& job, A (&acc)[dims == 2 ? K * K : K],
                                       A& total) {
    constexpr int height = dims == 2 ? K : 1, vectors = WtReach<K>::vectors;
    const int rows = min(level.rows, level.th - job.row);
    const A* from = x.row(job.image, job.band, level.oy + job.row - plan.before_y) + level.ox +
                    job.column - plan.left;
    const A* g = grad.row(job.image, job.band, job.row) + job.column;
    A d[height][4] = {};  // the gradient's last rows
#pragma unroll 1
    for (int start = 0; start < rows + height - 1; start += height) {
#pragma unroll
        for (int step = 0; step < height; ++step) {
            const int i = start + step;
            if (i >= rows + height - 1) break;
            // d[step] is row i, d[step - u] row i - u: indices are constants
            if (i < rows) {
                load_strip<1>(g + i * grad.stride, d[step]);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) d[step][j] = 0;
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) total += d[step][j];
            A v[4 * vectors];
            load_strip<vectors>(from + i * x.stride, v);
#pragma unroll
            for (int u = 0; u < height; ++u) {
                const int row = (step - u + height) % height;
#pragma unroll
                for (int t = 0; t < K; ++t) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        acc[u * K + t] += d[row][j] * v[WtReach<K>::skip + t + j];
                    }
                }
            }
        }
    }
}

template <class A, int dims>
__device__ inline void fill_both(const WtTables<A>& tables, const WtBlock& block) {
    const WtLevel& region = tables.plan.level[0];
    tables.fill_loads(false, block.y0 - region.oy, block.x0 - region.ox);
    tables.fill_loads(true, block.y0, block.x0);
    for (int l = 1; l <= tables.plan.levels; ++l) {
        tables.fill_steps(l, false);
        tables.fill_steps(l, true);
    }
}

template <class A, int dims>
__device__ inline void load_both(const WtTables<A>& tables, const WtCorrelate<A>& p,
                                 const WtBlock& block, int64_t first) {
    const WtPlan& plan = tables.plan;
    const WtLevel& region = plan.level[0];
    __syncthreads();
    load_planes(tables, false, p.x, first, block.channel, block.y0 - region.oy,
                block.x0 - region.ox, padded(tables.shared, plan, 0));
    load_planes(tables, true, p.grad, first, block.channel, block.y0, block.x0,
                dense(tables.shared, plan, 0));
    __syncthreads();
    cascade<dims>(tables, false);
    cascade<dims>(tables, true);
}

// A thread keeps one job, and its sums, through all images.
template <class A, int K, int dims>
__global__ void __launch_bounds__(kWtThreads, 2)
    wtconv_correlate_kernel(const __grid_constant__ WtPlan plan,
                            const __grid_constant__ WtCorrelate<A> p) {
    constexpr int taps = dims == 2 ? K * K : K;
    extern __shared__ __align__(16) char bytes[];
    A* shared = reinterpret_cast<A*>(bytes);
    const WtBlock block(plan, p.chunks);
    for (int i = threadIdx.x; i < plan.weights; i += blockDim.x) shared[i] = 0;
    const WtTable<A> table(shared, plan);
    table.fill(plan);
    const WtTables<A> tables{shared, plan};
    fill_both<A, dims>(tables, block);
    __syncthreads();
    const bool works = threadIdx.x < plan.jobs;
    const WtJob job = table(plan, works ? threadIdx.x : 0);
    A acc[taps] = {}, total = 0;
    for (int64_t group = block.chunk; group < plan.groups(); group += p.chunks) {
        const int64_t first = group * plan.group;
        load_both<A, dims>(tables, p, block, first);
        if (works && first + job.image < plan.n) {
            correlate_strip<K, dims>(plan, plan.level[job.level], padded(shared, plan, job.level),
                                     dense(shared, plan, job.level), job, acc, total);
        }
    }
    __syncthreads();
    if (works) {
        A* own = shared + threadIdx.x * (taps + 1);
#pragma unroll
        for (int i = 0; i < taps; ++i) own[i] = acc[i];
        own[taps] = total;
    }
    __syncthreads();
    // the jobs of a filter follow each other, those of the base last
    const int bands = 1 << dims;
    for (int i = threadIdx.x; i < plan.filters() * (taps + 1); i += blockDim.x) {
        const int filter = i / (taps + 1), tap = i % (taps + 1);
        int begin = 0, count = plan.group * plan.level[0].strips * plan.level[0].segs;
        if (filter == 0) {
            begin = plan.jobs - count;
        } else {
            const int l = 1 + (filter - 1) / bands;
            for (int above = 1; above < l; ++above) {
                begin += plan.group * bands * plan.level[above].strips * plan.level[above].segs;
            }
            count = plan.group * plan.level[l].strips * plan.level[l].segs;
            begin += (filter - 1) % bands * count;
        }
        A sum = 0;
        for (int j = begin; j < begin + count; ++j) sum += shared[j * (taps + 1) + tap];
        p.partial[((block.chunk * plan.tiles() + block.tile) * plan.channels + block.channel) *
                      plan.filters() * (taps + 1) +
                  i] = sum;
    }
}

// Filters of any size: a thread has a tap of a filter and sums over the pixels.
template <class A, int dims>
__global__ void __launch_bounds__(kWtThreads)
    wtconv_correlate_plain(const __grid_constant__ WtPlan plan,
                           const __grid_constant__ WtCorrelate<A> p) {
    extern __shared__ __align__(16) char bytes[];
    A* shared = reinterpret_cast<A*>(bytes);
    const WtBlock block(plan, p.chunks);
    for (int i = threadIdx.x; i < plan.weights; i += blockDim.x) shared[i] = 0;
    const WtTables<A> tables{shared, plan};
    fill_both<A, dims>(tables, block);
    const int taps = plan.taps(), bands = 1 << dims;
    A* partial =
        p.partial + ((block.chunk * plan.tiles() + block.tile) * plan.channels + block.channel) *
                        plan.filters() * (taps + 1);
    bool begun = false;
    for (int64_t group = block.chunk; group < plan.groups(); group += p.chunks) {
        const int64_t first = group * plan.group;
        const int images = static_cast<int>(min(int64_t{plan.group}, plan.n - first));
        load_both<A, dims>(tables, p, block, first);
        for (int i = threadIdx.x; i < plan.filters() * (taps + 1); i += blockDim.x) {
            const int filter = i / (taps + 1), tap = i % (taps + 1);
            const int l = filter == 0 ? 0 : 1 + (filter - 1) / bands;
            const int band = filter == 0 ? 0 : (filter - 1) % bands;
            const int u = tap / plan.kernel, t = tap % plan.kernel;
            const WtLevel& level = plan.level[l];
            const WtPlanes<A> x = padded(shared, plan, l), d = dense(shared, plan, l);
            A sum = begun ? partial[i] : A(0);
            for (int image = 0; image < images; ++image) {
                for (int y = 0; y < level.th; ++y) {
                    const A* from = x.row(image, band, level.oy + y + u - plan.before_y) +
                                    level.ox + t - plan.before;
                    for (int j = 0; j < level.tw; ++j) {
                        sum += tap == taps ? d.row(image, band, y)[j]
                                           : d.row(image, band, y)[j] * from[j];
                    }
                }
            }
            partial[i] = sum;
        }
        begun = true;
    }
}

// Where the gradients of one kernel's filters go; null where not needed.
struct WtGradients {
    Untyped base_weight, base_bias, base_scale, weights[kWtLevels], scales[kWtLevels];
};

constexpr int kWtSumWarps = 4;

// Adds the blocks' sums, and takes filter and scale apart: one warp a channel and filter.
template <class A>
__global__ void __launch_bounds__(32 * kWtSumWarps)
    wtconv_gradients_kernel(const A* partial, int64_t blocks, int64_t channels, int filters,
                            int taps, int bands, bool base, WtParameters p, WtGradients g) {
    const int64_t warp = int64_t{blockIdx.x} * kWtSumWarps + threadIdx.x / 32;
    const int64_t channel = warp / filters;
    const int filter = static_cast<int>(warp - channel * filters), lane = threadIdx.x % 32;
    if (channel >= channels || (filter == 0 && !base)) return;
    const int l = filter == 0 ? 0 : (filter - 1) / bands;
    const int64_t index = filter == 0 ? channel : channel * bands + (filter - 1) % bands;
    const Untyped& weight = filter == 0 ? p.base_weight : p.weights[l];
    const Untyped& scales = filter == 0 ? p.base_scale : p.scales[l];
    const Untyped& dweight = filter == 0 ? g.base_weight : g.weights[l];
    const Untyped& dscale = filter == 0 ? g.base_scale : g.scales[l];
    const A scale = load_one<A>(scales, index);
    const int64_t row = int64_t{filters} * (taps + 1);
    A slope = 0;
    for (int tap = lane; tap <= taps; tap += 32) {
        const A* from = partial + channel * row + filter * (taps + 1) + tap;
        A sum = 0;
#pragma unroll 8
        for (int64_t b = 0; b < blocks; ++b) sum += from[b * channels * row];
        if (tap < taps) {
            slope += sum * load_one<A>(weight, index * taps + tap);
            if (dweight) store_one(dweight, index * taps + tap, sum * scale);
        } else if (filter == 0) {
            if (p.base_bias) slope += sum * load_one<A>(p.base_bias, channel);
            if (g.base_bias) store_one(g.base_bias, channel, sum * scale);
        }
    }
    slope = warp_sum(slope);
    if (lane == 0 && dscale) store_one(dscale, index, slope);
}

}  // namespace fusewright::cuda
