// Sums over a warp and over a block, in an order that does not change from run to run.
#pragma once

#include <cuda_runtime.h>

namespace fusewright::cuda {

template <class A>
__device__ inline A warp_sum(A v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// Every thread gets the sums of all `threads` threads (a multiple of 32); `scratch` holds N values
// a warp and may be used again right away.
template <int threads, int N, class A>
__device__ inline void block_sum(A (&v)[N], A* scratch) {
    constexpr int warps = threads / 32;
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = warp_sum(v[i]);
    if constexpr (warps > 1) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
#pragma unroll
            for (int i = 0; i < N; ++i) scratch[threadIdx.x / 32 * N + i] = v[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if constexpr (warps > 8) {  // another round of shuffles is less than so many loads
                const int lane = threadIdx.x % 32;
                v[i] = warp_sum(lane < warps ? scratch[lane * N + i] : A(0));
            } else {
                v[i] = scratch[i];
#pragma unroll
                for (int w = 1; w < warps; ++w) v[i] += scratch[w * N + i];
            }
        }
    }
}

}  // namespace fusewright::cuda
