// The forward of the wavelet convolution by tiles, which is also the gradient of x: all filters of
// a tile take the planes in shared memory, and their results replace what they read.
#pragma once

#include "wtconv_tiles.cuh"

namespace fusewright::cuda {

struct TileForward {
    TileImage x, y;
    const float* deeper;  // what the levels below this kernel's last add to its low band, or null
    int deeper_h, deeper_w;
    WtParameters parameters;
    int chunks;  // of the images: a block takes every chunks-th
};

// The filters of the block's channels with their scales and the factors of the transform there and
// back; behind that of the base the scaled bias. `weights` is zero.
template <int K>
__device__ inline void load_filters(float* weights, const TilePlan& plan, const WtParameters& p,
                                    int channel) {
    constexpr int taps = K * K, step = (taps + 4) / 4 * 4;
    const int channels = min(plan.group, plan.channels - channel);
    for (int l = 0; l <= plan.levels; ++l) {
        const Untyped& source = l == 0 ? p.base_weight : p.weights[l - 1];
        if (!source) continue;
        const int bands = l == 0 ? 1 : 4, count = channels * bands * taps;
        with_element<true>(source.dtype, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            const T* from = static_cast<const T*>(source.data) + int64_t{channel} * bands * taps;
#pragma unroll 4
            for (int i = threadIdx.x; i < count; i += blockDim.x) {
                const int which = i / taps, tap = i - which * taps;
                const int g = l == 0 ? which : which / 4;
                const int filter = l == 0 ? 0 : 1 + (l - 1) * 4 + which % 4;
                weights[(g * plan.filters + filter) * step + (p.flipped ? taps - 1 - tap : tap)] =
                    static_cast<float>(to_acc(from[i]));
            }
        });
    }
    __syncthreads();
    for (int i = threadIdx.x; i < channels * plan.filters; i += blockDim.x) {
        const int g = i / plan.filters, filter = i - g * plan.filters;
        const int64_t c = channel + g;
        float* own = weights + i * step;
        if (filter > 0) {
            const int l = (filter - 1) / 4;
            const float scale = load_one<float>(p.scales[l], c * 4 + (filter - 1) % 4) *
                                __int_as_float((127 - 2 * (l + 1)) << 23);
            for (int tap = 0; tap < taps; ++tap) own[tap] *= scale;
        } else if (p.base_scale) {
            const float scale = load_one<float>(p.base_scale, c);
            for (int tap = 0; tap < taps; ++tap) own[tap] *= scale;
            if (p.base_bias) own[taps] = load_one<float>(p.base_bias, c) * scale;
        }
    }
}

// Filters the rows and four columns of a job.
template <int K>
__device__ inline void filter_job(const float* from, int row, int rows, const float* weights,
                                  float (&acc)[kTileRows][4]) {
    constexpr int vectors = WtReach<K>::vectors;
    float w[(K * K + 3) / 4 * 4];
    load_strip<(K * K + 3) / 4>(weights, w);
#pragma unroll
    for (int i = 0; i < kTileRows + K - 1; ++i) {
        if (i == kTileFewRows + K - 1 && rows <= kTileFewRows) break;
        float v[4 * vectors];
        load_strip<vectors>(from + i * row, v);
#pragma unroll
        for (int u = 0; u < K; ++u) {
            const int r = i - u;
            if (r < 0 || r >= kTileRows) continue;
#pragma unroll
            for (int t = 0; t < K; ++t) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    acc[r][j] += w[u * K + t] * v[WtReach<K>::skip + t + j];
                }
            }
        }
    }
}

// All filters, a round of whole planes after the other.
template <int K>
__device__ inline void filter_planes(float* shared, const TilePlan& plan) {
    constexpr int before = K / 2, left = WtReach<K>::left;
    const auto* table = reinterpret_cast<const uint2*>(shared + plan.job_table);
    for (int round = 0; round < plan.rounds; ++round) {
        const int job = plan.round[round] + threadIdx.x;
        const bool works = job < plan.round[round + 1];
        float acc[kTileRows][4] = {};
        uint2 entry{};
        if (works) {
            entry = table[job];
            filter_job<K>(shared + (entry.x & 0xffff), entry.y & 0xfff, entry.y >> 12 & 15,
                          shared + (entry.x >> 16), acc);
        }
        __syncthreads();
        if (works) {
            const int row = entry.y & 0xfff, rows = entry.y >> 12 & 15, columns = entry.y >> 16;
            if (columns < 4) {  // beyond the plane are zeros
#pragma unroll
                for (int r = 0; r < kTileRows; ++r) {
#pragma unroll
                    for (int j = 1; j < 4; ++j) acc[r][j] = j < columns ? acc[r][j] : 0.f;
                }
            }
            float* to = shared + (entry.x & 0xffff) + before * row + left;
            const bool turn = bank_turn(to);
#pragma unroll
            for (int r = 0; r < kTileRows; ++r) {
                if (r < rows) {
                    store_four<left>(to + r * row, turn, acc[r][0], acc[r][1], acc[r][2],
                                     acc[r][3]);
                }
            }
        }
    }
    __syncthreads();
}

__device__ inline void fill_jobs(float* shared, const TilePlan& plan, int before, int left) {
    auto* table = reinterpret_cast<uint2*>(shared + plan.job_table);
    for (int i = threadIdx.x; i < plan.jobs; i += blockDim.x) {
        const TileJob job(plan, i);
        const TileLevel& level = plan.level[job.level];
        const unsigned in = job.g * plan.step + level.in.at + job.band() * level.in.band +
                            (job.seg * kTileRows - before) * level.in.row + job.strip * 4 - left;
        const unsigned w = plan.weights + (job.g * plan.filters + job.filter) * plan.filter_step;
        const unsigned rows = min(kTileRows, level.h - job.seg * kTileRows);
        const unsigned columns = min(4, level.w - job.strip * 4);
        table[i] = {in | w << 16, level.in.row | rows << 12 | columns << 16};
    }
}

// The pixels of a square from the bands in the planes; `deeper` is added to the second low band.
template <int left>
__device__ inline void gather(const float* own, const TilePlan& plan, const TileSquare& square,
                              float bias, float deeper, float (&v)[4][4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) v[r][0] = v[r][1] = v[r][2] = v[r][3] = bias;
    if (plan.base) {
        const TilePlanes& planes = plan.level[0].in;
        const float* at = own + planes.at + 4 * square.y * planes.row + 4 * square.x;
        const bool turn = bank_turn(at);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const float4 four = load_four<left>(at + r * planes.row, turn);
            v[r][0] += four.x, v[r][1] += four.y, v[r][2] += four.z, v[r][3] += four.w;
        }
    }
    if (plan.levels == 0) return;
    float bands[4][4];  // of the blocks 0 1 / 2 3
    {
        const TilePlanes& planes = plan.level[1].in;
        const float* at = own + planes.at + 2 * square.y * planes.row + 2 * square.x;
#pragma unroll
        for (int band = 0; band < 4; ++band, at += planes.band) {
            const Two<float> a = two(at), b = two(at + planes.row);
            bands[0][band] = a.a, bands[1][band] = a.b;
            bands[2][band] = b.a, bands[3][band] = b.b;
        }
    }
    if (plan.levels > 1) {
        const TilePlanes& planes = plan.level[2].in;
        const float* at = own + planes.at + square.y * planes.row + square.x;
        float pixels[4];
        haar(at[0] + deeper, at[2 * planes.band], at[planes.band], at[3 * planes.band], pixels);
        bands[0][0] += pixels[0], bands[1][0] += pixels[2];
        bands[2][0] += pixels[1], bands[3][0] += pixels[3];
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const int r = k / 2 * 2, c = k % 2 * 2;
        float pixels[4];
        haar(bands[k][0], bands[k][2], bands[k][1], bands[k][3], pixels);
        v[r][c] += pixels[0], v[r][c + 1] += pixels[2];
        v[r + 1][c] += pixels[1], v[r + 1][c + 1] += pixels[3];
    }
}

// Back from the bands in the planes to the image.
template <int K>
__device__ inline void store_squares(const float* shared, const TilePlan& plan,
                                     const TileForward& p, const TileBlock& block, int64_t n) {
    const auto* table = reinterpret_cast<const unsigned*>(shared + plan.inner_table);
    const int64_t first = p.y.first(block, n);
    for (int i = threadIdx.x; i < plan.inner(); i += blockDim.x) {
        const TileSquare square(table[i], 0);
        const int channel = block.channel + square.g;
        if (channel >= plan.channels) continue;
        float deeper = 0, v[4][4];
        if (p.deeper != nullptr) {
            const int y = block.y / 4 + square.y, x = block.x / 4 + square.x;
            if (y < p.deeper_h && x < p.deeper_w) {
                deeper =
                    0.25f *
                    p.deeper[((n * plan.channels + channel) * p.deeper_h + y) * p.deeper_w + x];
            }
        }
        gather<WtReach<K>::left>(
            shared + square.g * plan.step, plan, square,
            shared[plan.weights + square.g * plan.filters * plan.filter_step + K * K], deeper, v);
        with_access(p.y, [&](auto* type, auto vector) {
            using T = std::remove_pointer_t<decltype(type)>;
            store_square<vector>(p.y, plan,
                                 static_cast<T*>(p.y.data.data) + first + p.y.offset(square),
                                 block.y + 4 * square.y, block.x + 4 * square.x, v);
        });
    }
}

template <int K>
__global__ void __maxnreg__(tile_registers(K, false))
    wtconv_tiles_kernel(const __grid_constant__ TilePlan plan,
                        const __grid_constant__ TileForward p) {
    constexpr int before = K / 2, left = WtReach<K>::left;
    extern __shared__ __align__(16) char bytes[];
    float* shared = reinterpret_cast<float*>(bytes);
    const TileBlock block(plan);
    clear(shared, plan.weights + plan.group * plan.filters * plan.filter_step);
    __syncthreads();
    load_filters<K>(shared + plan.weights, plan, p.parameters, block.channel);
    fill_jobs(shared, plan, before, left);
    fill_squares(reinterpret_cast<unsigned*>(shared + plan.square_table), plan, plan.margin);
    if (plan.margin > 0) {
        fill_squares(reinterpret_cast<unsigned*>(shared + plan.inner_table), plan, 0);
    }
    for (int64_t n = block.chunk; n < plan.n; n += p.chunks) {
        __syncthreads();
        load_squares<before, left, false>(shared, plan, p.x, block, n);
        __syncthreads();
        descend<false>(shared, plan);
        filter_planes<K>(shared, plan);
        ascend(shared, plan);
        store_squares<K>(shared, plan, p, block, n);
    }
}

}  // namespace fusewright::cuda
