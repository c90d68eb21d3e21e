// Sums over a warp and over a block, in an order that does not change from run to run.
#pragma once

#include <cuda_runtime.h>

namespace fusewright::cuda {

__device__ inline void add_to(float4& sum, const float4& other) {
    sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
}

// Four sums to global memory and back as one piece: the compiler made four stores of an assignment,
// each of a part of a sector, which takes several times as long.
__device__ inline void store_sum(float4* to, const float4& sum) { __stwb(to, sum); }
__device__ inline float4 load_sum(const float4* from) { return __ldcg(from); }

// Over `lanes` neighbours, a power of two, each of which gets the same sum.
template <int lanes = 32, class A>
__device__ inline A warp_sum(A v) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, offset);
    }
    return v;
}

// Where warps leave their sums for a block. Calls take turns with two places, so that one barrier a
// call is enough: who writes a place again has passed the barrier behind which it was read.
template <int threads, int most, class A>
struct BlockScratch {
    A places[2][most * threads / 32];
};

// Every thread gets the sums of all `threads` threads, whose warps are a power of two.
template <int threads, int most, int N, class A>
__device__ inline void block_sum(A (&v)[N], BlockScratch<threads, most, A>& place, int& turn) {
    constexpr int warps = threads / 32;
    static_assert(N <= most && threads % 32 == 0 && (warps & (warps - 1)) == 0);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = warp_sum(v[i]);
    if constexpr (warps > 1) {
        A* scratch = place.places[turn];
        turn ^= 1;
        if (threadIdx.x % 32 == 0) {
#pragma unroll
            for (int i = 0; i < N; ++i) scratch[threadIdx.x / 32 * N + i] = v[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = warp_sum<warps>(scratch[threadIdx.x % warps * N + i]);
    }
}

}  // namespace fusewright::cuda
