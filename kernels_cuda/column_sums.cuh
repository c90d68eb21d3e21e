// The second stage of a gradient that sums over rows: partial sums of blocks, added in their order.
#pragma once

#include "element.cuh"
#include "launch.h"

namespace fusewright::cuda {

constexpr int kSumLanes = 32, kSumParts = 16;

// out[i] = sum over b of partial[b][i], for `count` blocks that lie `stride` apart. A template only
// so that every file that includes it may define it.
template <class A>
__global__ void __launch_bounds__(kSumLanes* kSumParts)
    column_sums_kernel(const A* partial, int64_t count, int64_t stride, int64_t columns,
                       Untyped out) {
    __shared__ A parts[kSumParts][kSumLanes + 1];
    const int64_t i = int64_t{blockIdx.x} * kSumLanes + threadIdx.x;
    A sum = 0;
    if (i < columns) {
        for (int64_t b = threadIdx.y; b < count; b += kSumParts) sum += partial[b * stride + i];
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < columns) {
#pragma unroll
        for (int part = 1; part < kSumParts; ++part) sum += parts[part][threadIdx.x];
        store_one(out, i, sum);
    }
}

// The sums in a tensor with the shape, strides and dtype of `like`.
template <class A>
Tensor column_sums(const Launch& launch, const Tensor& like, const A* partial, int64_t count,
                   int64_t stride) {
    Tensor result = fresh_like(like);
    const bool dense = result.is_contiguous();
    const Tensor out = dense ? result : fresh(like, {like.numel()});
    launch(column_sums_kernel<A>,
           dim3(static_cast<unsigned>(ceil_div<int64_t>(like.numel(), kSumLanes))),
           dim3(kSumLanes, kSumParts), 0, partial, count, stride, like.numel(), Untyped(out));
    if (!dense) torch::stable::copy_(result, torch::stable::view(out, shape_of(like)));
    return result;
}

}  // namespace fusewright::cuda
