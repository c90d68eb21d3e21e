// The forward of the wavelet convolution, which is also the gradient of x: one kernel loads a
// region, transforms it, filters every band of every level, and transforms back on its way out.
#pragma once

#include "wtconv_host.cuh"

namespace fusewright::cuda {

template <class A>
struct WtForward {
    WtImage x, y;
    const A* deeper;  // what the levels below this kernel's last add to its low band, or null
    int64_t deeper_h, deeper_w;
    WtParameters parameters;
    bool base;
    int chunks;  // of the groups of images: a block takes every chunks-th
};

// The filters of all bands; results to the dense planes.
template <int K, int dims, class A>
__device__ inline void filter_bands(A* shared, const WtPlan& plan, const WtTable<A>& table) {
    const int base = WtTable<A>::base(plan);
    for (int index = threadIdx.x; index < base; index += blockDim.x) {
        const WtJob job = table(plan, index);
        const WtLevel& level = plan.level[job.level];
        A acc[kWtRows][4] = {};
        filter_strip<K, dims>(plan, padded(shared, plan, job.level), job.plane, level.oy + job.row,
                              level.ox + job.column,
                              shared + plan.weights + job.filter * plan.taps(), acc);
        const WtPlanes<A> to = dense(shared, plan, job.level);
#pragma unroll
        for (int r = 0; r < kWtRows; ++r) {
            if (job.row + r >= level.th) break;
            auto* four = reinterpret_cast<Four<A>*>(to.row(job.plane, job.row + r) + job.column);
            *four = {acc[r][0], acc[r][1], acc[r][2], acc[r][3]};
        }
    }
}

// Adds `deeper` to the low band of the last level.
template <class A>
__device__ inline void add_deeper(A* shared, const WtPlan& plan, const WtForward<A>& p,
                                  int64_t first, int64_t channel, int64_t y0, int64_t x0) {
    const WtLevel& level = plan.level[plan.levels];
    const WtPlanes<A> low = dense(shared, plan, plan.levels);
    const int planes = static_cast<int>(min(int64_t{plan.group}, plan.n - first));
    for_rows(planes, level.th, level.tw, [&](int g, int r, int i) {
        const int64_t y = y0 + r, x = x0 + i;
        if (y < p.deeper_h && x < p.deeper_w) {
            // in one dimension the rows are images
            const int64_t row = plan.dims == 2
                                    ? ((first + g) * plan.channels + channel) * p.deeper_h + y
                                    : y * plan.channels + channel;
            low.row(g << plan.dims, r)[i] += p.deeper[row * p.deeper_w + x];
        }
    });
    __syncthreads();
}

// From the deepest level up to the first, each onto the low band above it.
template <int dims, class A>
__device__ inline void climb(A* shared, const WtPlan& plan) {
    for (int l = plan.levels; l > 1; --l) {
        const WtLevel& upper = plan.level[l - 1];
        const WtPlanes<A> from = dense(shared, plan, l), to = dense(shared, plan, l - 1);
        for_rows(plan.group, upper.th, (upper.tw + 1) / 2, [&](int g, int y, int i) {
            const Two<A> v = inverse_pair<dims>(from, g, y, 2 * i);
            A* low = to.row(g << dims, y) + 2 * i;
            low[0] += v.a;
            if (2 * i + 1 < upper.tw) low[1] += v.b;
        });
        __syncthreads();
    }
}

// The base filter, plus the inverse of the first level, to the output.
template <int K, int dims, class A>
__device__ inline void finish(A* shared, const WtPlan& plan, const WtForward<A>& p,
                              const WtTable<A>& table, int64_t first, int64_t channel, int64_t y0,
                              int64_t x0) {
    const WtLevel& level = plan.level[0];
    for (int index = WtTable<A>::base(plan) + threadIdx.x; index < plan.jobs; index += blockDim.x) {
        const WtJob job = table(plan, index);
        if (first + job.plane >= plan.n) continue;
        A acc[kWtRows][4] = {};
        if (p.base) {
            filter_strip<K, dims>(plan, padded(shared, plan, 0), job.plane, level.oy + job.row,
                                  level.ox + job.column, shared + plan.weights, acc);
        }
        const A bias = shared[plan.weights + plan.filters() * plan.taps()];
        const int64_t at = p.y(first + job.plane, channel);
#pragma unroll
        for (int r = 0; r < kWtRows; ++r) {
            const int64_t y = y0 + job.row + r, x = x0 + job.column;
            if (job.row + r >= level.th || y >= plan.height) break;
            A v[4];
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                v[j] = acc[r][j] + bias, v[j + 1] = acc[r][j + 1] + bias;
                if (plan.levels > 0 && job.column + j < level.tw) {
                    const Two<A> more = inverse_pair<dims>(dense(shared, plan, 1), job.plane,
                                                           job.row + r, job.column + j);
                    v[j] += more.a, v[j + 1] += more.b;
                }
            }
            if constexpr (std::is_same_v<A, float>) {
                if (p.y.packs && job.column + 4 <= level.tw) {
                    if (x < plan.width) store_pack(p.y.data, at + y * p.y.y + x, v);
                    continue;
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (job.column + j < level.tw && x + j < plan.width) {
                    store_one(p.y.data, at + y * p.y.y + (x + j) * p.y.x, v[j]);
                }
            }
        }
    }
}

template <class A, int K, int dims>
__global__ void __launch_bounds__(kWtThreads, sizeof(A) == 4 ? 2 : 1)
    wtconv_forward_kernel(const __grid_constant__ WtPlan plan,
                          const __grid_constant__ WtForward<A> p) {
    extern __shared__ __align__(16) char bytes[];
    A* shared = reinterpret_cast<A*>(bytes);
    const WtBlock block(plan, p.chunks);
    for (int i = threadIdx.x; i < plan.weights; i += blockDim.x) shared[i] = 0;
    const WtTable<A> table(shared, plan);
    table.fill(plan);
    load_weights(shared + plan.weights, plan, p.parameters, block.channel);
    const WtLevel& region = plan.level[0];
    for (int64_t group = block.chunk; group < plan.groups(); group += p.chunks) {
        const int64_t first = group * plan.group;
        __syncthreads();
        load_planes(plan, p.x, first, block.channel, block.y0 - region.oy, block.x0 - region.ox,
                    region.h, region.w, padded(shared, plan, 0));
        __syncthreads();
        cascade<dims>(shared, plan, false);
        filter_bands<K, dims>(shared, plan, table);
        __syncthreads();
        if (p.deeper != nullptr) {
            add_deeper(shared, plan, p, first, block.channel, dims == 2 ? block.y0 / 2 : block.y0,
                       block.x0 / 2);
        }
        climb<dims>(shared, plan);
        finish<K, dims>(shared, plan, p, table, first, block.channel, block.y0, block.x0);
    }
}

// y = the convolution of x with the levels from `from` on; without the base filter for the low
// band of a level above.
template <class A, int dims>
void wtconv_run(const Launch& launch, const WtCall<dims>& call, const WtImage& x, int64_t height,
                int64_t width, const WtImage& y, int from, bool base, bool flipped) {
    WtPlan plan;
    const int levels = call.levels - from;
    const int64_t n = dims == 2 ? call.n : 1, rows = dims == 2 ? height : call.n;
    FW_CHECK(make_plan(plan, n, call.channels, rows, width, dims, call.kernel, levels, flipped,
                       false, sizeof(A), launch.shared_limit()),
             call.op, "kernel size ", call.kernel, " needs more shared memory than the GPU has");
    WtForward<A> p{x, y, nullptr, 0, 0, call.parameters(from, plan.levels, base, flipped), base, 1};
    Tensor deeper;
    if (plan.levels < levels) {
        const WtLow<A, dims> low(launch, call, x, height, width);
        deeper = fresh(low.tensor, low.tensor.sizes());
        wtconv_run<A, dims>(launch, call, low.image, low.height, low.width, low.image_of(deeper),
                            from + plan.levels, false, flipped);
        p.deeper = data<const A>(deeper);
        p.deeper_h = dims == 2 ? low.height : call.n;
        p.deeper_w = low.width;
    }
    with_wt_kernel<A>(call.kernel, [&](auto kernel) {
        const auto run = wtconv_forward_kernel<A, kernel, dims>;
        const size_t shared = plan.elements * sizeof(A);
        const int threads = plan.jobs > 192 ? kWtThreads : kWtThreads / 2;
        p.chunks = wt_chunks(plan, launch.resident(run, threads, shared));
        launch(run, wt_grid(plan, p.chunks), dim3(threads), shared, plan, p);
    });
}

template <int dims>
Tensor wtconv_forward(const char* op, const Tensor& x, const Tensor& base_weight,
                      const std::optional<Tensor>& base_bias, const Tensor& base_scale,
                      const std::vector<Tensor>& weights, const std::vector<Tensor>& scales) {
    const Launch launch(x);
    const WtCall<dims> call(op, x, base_weight, base_bias, base_scale, weights, scales);
    const Tensor y = fresh_like(x);
    if (x.numel() == 0) return y;
    with_acc(x.scalar_type(), op, [&](auto acc) {
        using A = typename decltype(acc)::type;
        wtconv_run<A, dims>(launch, call, image_of<dims>(x), call.height, call.width,
                            image_of<dims>(y), 0, true, false);
    });
    return y;
}

}  // namespace fusewright::cuda
