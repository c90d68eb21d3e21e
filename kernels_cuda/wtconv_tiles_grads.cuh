// The gradients of the filters by tiles: the bands of x against those of the output gradient. The
// Haar transform is orthonormal, so the gradient of a band's result is that band of the gradient.
#pragma once

#include "wtconv_tiles.cuh"

namespace fusewright::cuda {

struct TileGrads {
    TileImage x, grad;
    float* partial;  // [block of a channel][channel][filter][taps + 1], the last the gradient's sum
    int chunks;
};

struct alignas(16) TileGradJob {
    unsigned x, grad;                              // offsets
    unsigned short x_row, grad_row, rows, passes;  // rows of the last pass
    static_assert(kTileRows < 16);
};

__device__ inline void fill_grad_jobs(float* shared, const TilePlan& plan, int before, int left) {
    auto* table = reinterpret_cast<TileGradJob*>(shared + plan.job_table);
    for (int i = threadIdx.x; i < plan.jobs; i += blockDim.x) {
        const TileJob job(plan, i);
        const TileLevel& level = plan.level[job.level];
        TileGradJob entry;
        entry.x = job.g * plan.step + level.in.at + job.band() * level.in.band +
                  (job.seg * kTileRows - before) * level.in.row + job.strip * 4 - left;
        entry.grad = job.g * plan.grad_step + level.grad.at + job.band() * level.grad.band +
                     job.seg * kTileRows * level.grad.row + job.strip * 4;
        entry.x_row = level.in.row, entry.grad_row = level.grad.row;
        entry.passes = min(plan.passes, level.segs - job.seg);
        entry.rows = level.h - (job.seg + entry.passes - 1) * kTileRows;
        table[i] = entry;
    }
}

// Adds the products of a job's rows of the gradient with x to acc, and their sum to `total`.
template <int K>
__device__ inline void correlate_job(const float* x, int x_row, const float* grad, int grad_row,
                                     int rows, float (&acc)[K * K], float& total) {
    constexpr int vectors = WtReach<K>::vectors;
    float d[kTileRows][4];
#pragma unroll
    for (int i = 0; i < kTileRows + K - 1; ++i) {
        if (i == kTileFewRows + K - 1 && rows <= kTileFewRows) break;
        if (i < kTileRows) {
            if (i < kTileFewRows || rows > kTileFewRows) {
                load_strip<1>(grad + i * grad_row, d[i]);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) d[i][j] = 0;
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) total += d[i][j];
        }
        float v[4 * vectors];
        load_strip<vectors>(x + i * x_row, v);
#pragma unroll
        for (int u = 0; u < K; ++u) {
            const int r = i - u;
            if (r < 0 || r >= kTileRows) continue;
#pragma unroll
            for (int t = 0; t < K; ++t) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    acc[u * K + t] += d[r][j] * v[WtReach<K>::skip + t + j];
                }
            }
        }
    }
}

// A thread keeps one job, and its sums, through all images.
template <int K>
__global__ void __maxnreg__(tile_registers(K, true))
    wtconv_tile_grads_kernel(const __grid_constant__ TilePlan plan,
                             const __grid_constant__ TileGrads p) {
    constexpr int before = K / 2, left = WtReach<K>::left, taps = K * K;
    extern __shared__ __align__(16) char bytes[];
    float* shared = reinterpret_cast<float*>(bytes);
    const TileBlock block(plan);
    clear(shared, plan.weights);
    fill_grad_jobs(shared, plan, before, left);
    fill_squares(reinterpret_cast<unsigned*>(shared + plan.square_table), plan, plan.margin);
    if (plan.margin > 0) {
        fill_squares(reinterpret_cast<unsigned*>(shared + plan.inner_table), plan, 0);
    }
    __syncthreads();
    const bool works = threadIdx.x < plan.jobs;
    const TileGradJob job =
        reinterpret_cast<const TileGradJob*>(shared + plan.job_table)[works ? threadIdx.x : 0];
    float acc[taps] = {}, total = 0;
    for (int64_t n = block.chunk; n < plan.n; n += p.chunks) {
        load_squares<before, left, false>(shared, plan, p.x, block, n);
        load_squares<0, 0, true>(shared, plan, p.grad, block, n);
        __syncthreads();
        descend<false>(shared, plan);
        descend<true>(shared, plan);
        if (works) {
            const float *x = shared + job.x, *grad = shared + job.grad;
#pragma unroll 1
            for (int pass = 1; pass <= job.passes; ++pass) {
                correlate_job<K>(x, job.x_row, grad, job.grad_row,
                                 pass < job.passes ? kTileRows : job.rows, acc, total);
                x += kTileRows * job.x_row, grad += kTileRows * job.grad_row;
            }
        }
        __syncthreads();
    }
    if (works) {
        float* own = shared + threadIdx.x * (taps + 1);
#pragma unroll
        for (int i = 0; i < taps; ++i) own[i] = acc[i];
        own[taps] = total;
    }
    __syncthreads();
    const int sums = plan.filters * (taps + 1);
    for (int i = threadIdx.x; i < plan.group * sums; i += blockDim.x) {
        const int g = i / sums, rest = i - g * sums;
        const int filter = rest / (taps + 1), tap = rest - filter * (taps + 1);
        if (block.channel + g >= plan.channels) break;
        const int bands = filter == 0 ? 1 : 4;
        const TileLevel& level = plan.level[filter == 0 ? 0 : 1 + (filter - 1) / 4];
        const int each = level.strips * bands, segs = (level.segs + plan.passes - 1) / plan.passes;
        float sum = 0;
        // of bands that are both 2^l times too large
        const float factor = filter == 0 || tap == taps
                                 ? 1.f
                                 : __int_as_float((127 - 2 * (1 + (filter - 1) / 4)) << 23);
        for (int seg = 0; seg < segs; ++seg) {
            const int first = level.job + (seg * plan.group + g) * each +
                              (filter == 0 ? 0 : (filter - 1) % 4) * level.strips;
            for (int strip = 0; strip < level.strips; ++strip) {
                sum += shared[(first + strip) * (taps + 1) + tap];
            }
        }
        const int64_t row = int64_t{block.chunk} * plan.tiles() + block.tile;
        p.partial[(row * plan.channels + block.channel + g) * sums + rest] = sum * factor;
    }
}

}  // namespace fusewright::cuda
