// What kernels_cuda/norm_sums.cuh needs of CUDA, on the host: a block's threads are threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>

#define __device__
#define __shared__ static

struct float4 {
    float x, y, z, w;
};
struct Index {
    unsigned x;
};
inline thread_local Index threadIdx;
inline std::barrier<>* block;
inline void __syncthreads() { block->arrive_and_wait(); }

namespace fusewright::cuda {

struct Untyped {
    float* data = nullptr;
    explicit operator bool() const { return data != nullptr; }
};
inline void store_one(const Untyped& t, int64_t i, float value) { t.data[i] = value; }

template <class I>
constexpr I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

inline void add_to(float4& sum, const float4& other) {
    sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
}
// Memory that nobody wrote holds NaN.
inline std::atomic<bool> unwritten_read = false;
inline float4 load_sum(const float4* from) {
    if (std::isnan(from->x + from->y + from->z + from->w)) unwritten_read = true;
    return *from;
}

}  // namespace fusewright::cuda
