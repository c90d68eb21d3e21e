// The forward of the wavelet convolution, which is also the gradient of x: one kernel loads a
// region, transforms it, filters every band of every level, and transforms back on its way out.
#pragma once

#include "wtconv_host.cuh"
#include "wtconv_tiles_host.cuh"

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
        filter_strip<K, dims>(plan, padded(shared, plan, job.level), job, level.oy + job.row,
                              level.ox + job.column,
                              shared + plan.weights + job.filter * plan.taps(), acc);
        const WtPlanes<A> to = dense(shared, plan, job.level);
#pragma unroll
        for (int r = 0; r < kWtRows; ++r) {
            if (job.row + r >= level.th) break;
            auto* four =
                reinterpret_cast<Four<A>*>(to.row(job.image, job.band, job.row + r) + job.column);
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
    const int images = static_cast<int>(min(int64_t{plan.group}, plan.n - first));
    for_images(plan, images, [&](int g) {
        for (int i = threadIdx.x % plan.team; i < level.th * level.tw; i += plan.team) {
            const int r = i / level.tw, c = i - r * level.tw;
            const int64_t y = y0 + r, x = x0 + c;
            if (y >= p.deeper_h || x >= p.deeper_w) continue;
            // in one dimension the rows are images
            const int64_t row = plan.dims == 2
                                    ? ((first + g) * plan.channels + channel) * p.deeper_h + y
                                    : y * plan.channels + channel;
            low.row(g, 0, r)[c] += p.deeper[row * p.deeper_w + x];
        }
    });
    __syncthreads();
}

// From the deepest level up to the first, each onto the low band above it.
template <int dims, class A>
__device__ inline void climb(const WtTables<A>& tables) {
    const WtPlan& plan = tables.plan;
    for (int l = plan.levels; l > 1; --l) {
        const WtLevel& level = plan.level[l];
        const WtPlanes<A> from = dense(tables.shared, plan, l),
                          to = dense(tables.shared, plan, l - 1);
        const unsigned* steps = tables.steps(level, true);
        const int lane = threadIdx.x % plan.team;
        if (lane < level.dense_count) {
            for_images(plan, plan.group, [&](int g) {
                for (int i = lane; i < level.dense_count; i += plan.team) {
                    const unsigned e = steps[i];
                    WtBlocks<dims, A>::synthesise(from.row(g, 0, 0) + (e & 0xffff), from.band,
                                                  to.row(g, 0, 0) + (e >> 16), to.stride);
                }
            });
        }
        __syncthreads();
    }
}

// The inverse of the first level for a strip of four columns, added to it.
template <int dims, class A>
__device__ inline void add_inverse(const WtPlanes<A>& bands, int image, int row, int column,
                                   A (&acc)[kWtBaseRows][4]) {
    constexpr int step = dims;  // rows that one row of coefficients makes
    const A* from = bands.row(image, 0, row / step) + column / 2;
#pragma unroll
    for (int r = 0; r < kWtBaseRows; r += step) {
        const A* p = from + r / step * bands.stride;
        if constexpr (dims == 2) {
            WtBlocks<dims, A>::synthesise(p, bands.band, acc[r], 4);
        } else {
            WtBlocks<dims, A>::synthesise(p, bands.band, acc[r], 0);
        }
    }
}

// The base filter, plus the inverse of the first level, to the output.
template <int K, int dims, class A>
__device__ inline void finish(const WtTables<A>& tables, const WtForward<A>& p,
                              const WtTable<A>& table, int64_t first, int64_t channel, int64_t y0,
                              int64_t x0) {
    const WtPlan& plan = tables.plan;
    const WtLevel& level = plan.level[0];
    const A bias = tables.shared[plan.weights + plan.filters() * plan.taps()];
    for (int index = WtTable<A>::base(plan) + threadIdx.x; index < plan.jobs; index += blockDim.x) {
        const WtJob job = table(plan, index);
        if (first + job.image >= plan.n) continue;
        alignas(16) A acc[kWtBaseRows][4];
#pragma unroll
        for (int r = 0; r < kWtBaseRows; ++r) acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = bias;
        if (p.base) {
            filter_strip<K, dims>(plan, padded(tables.shared, plan, 0), job, level.oy + job.row,
                                  level.ox + job.column, tables.shared + plan.weights, acc);
        }
        if (plan.levels > 0) {
            add_inverse<dims>(dense(tables.shared, plan, 1), job.image, job.row, job.column, acc);
        }
        const int64_t y = y0 + job.row, x = x0 + job.column;
        const int rows = static_cast<int>(min(int64_t{level.th - job.row}, plan.height - y));
        const int columns = static_cast<int>(min(int64_t{level.tw - job.column}, plan.width - x));
        with_element<sizeof(A) == 8>(p.y.data.dtype, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            T* to = static_cast<T*>(p.y.data.data) + p.y(first + job.image, channel) + y * p.y.y +
                    x * p.y.x;
#pragma unroll
            for (int r = 0; r < kWtBaseRows; ++r) {
                if (r >= rows) break;
                Pack<T, 4> pack;
#pragma unroll
                for (int j = 0; j < 4; ++j) pack[j] = from_acc<T>(acc[r][j]);
                T* at = to + r * p.y.y;
                if (p.y.packs) {
                    if (columns > 0) *reinterpret_cast<Pack<T, 4>*>(at) = pack;
                } else {
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        if (j < columns) at[j * p.y.x] = pack[j];
                    }
                }
            }
        });
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
    const WtTables<A> tables{shared, plan};
    const WtLevel& region = plan.level[0];
    tables.fill_loads(false, block.y0 - region.oy, block.x0 - region.ox);
    for (int l = 1; l <= plan.levels; ++l) {
        tables.fill_steps(l, false);
        if (l > 1) tables.fill_steps(l, true);
    }
    for (int64_t group = block.chunk; group < plan.groups(); group += p.chunks) {
        const int64_t first = group * plan.group;
        __syncthreads();
        load_planes(tables, false, p.x, first, block.channel, block.y0 - region.oy,
                    block.x0 - region.ox, padded(shared, plan, 0));
        __syncthreads();
        cascade<dims>(tables, false);
        filter_bands<K, dims>(shared, plan, table);
        __syncthreads();
        if (p.deeper != nullptr) {
            add_deeper(shared, plan, p, first, block.channel, dims == 2 ? block.y0 / 2 : block.y0,
                       block.x0 / 2);
        }
        climb<dims>(tables);
        finish<K, dims>(tables, p, table, first, block.channel, block.y0, block.x0);
    }
}

// y = the convolution of x with the levels from `from` on; without the base filter for the low
// band of a level above.
template <class A, int dims>
void wtconv_run(const Launch& launch, const WtCall<dims>& call, const WtImage& x, int64_t height,
                int64_t width, const WtImage& y, int from, bool base, bool flipped) {
    if constexpr (dims == 2 && std::is_same_v<A, float>) {
        if (tiles_run(launch, call, x, height, width, y, from, base, flipped)) return;
    }
    WtPlan plan;
    const int levels = call.levels - from;
    const int64_t n = dims == 2 ? call.n : 1, rows = dims == 2 ? height : call.n;
    FW_CHECK(make_plan(plan, n, call.channels, rows, width, dims, call.kernel, levels, flipped,
                       false, x.packs ? 4 : 1, sizeof(A), launch.shared_limit()),
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
    with_wt_kernel<A, dims>(call.kernel, [&](auto kernel) {
        const auto run = wtconv_forward_kernel<A, kernel, dims>;
        const size_t shared = plan.elements * sizeof(A);
        p.chunks = wt_chunks(plan.channels * plan.tiles(), plan.groups(),
                             launch.resident(run, plan.threads, shared), 4);
        launch(run, wt_grid(plan, p.chunks), dim3(plan.threads), shared, plan, p);
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
