// The second stage of a gradient that sums over rows: partial sums of blocks, added in their order.
#pragma once

#include "early.cuh"
#include "element.cuh"
#include "launch.h"

namespace fusewright::cuda {

constexpr int kSumLanes = 32, kSumParts = 16, kSumAhead = 8;

template <class A>
struct PartialSums {
    const A* partial;
    Untyped out;
};

// out[i] = sum over b of partial[b][i], for `count` blocks that lie `stride` apart; a grid may have
// two such sums. A template only so that every file that includes it may define it.
template <class A>
__global__ void __launch_bounds__(kSumLanes* kSumParts)
    column_sums_kernel(PartialSums<A> first, PartialSums<A> second, int64_t count, int64_t stride,
                       int64_t columns) {
    __shared__ A parts[kSumParts][kSumLanes + 1];
    const auto [partial, out] = blockIdx.y == 0 ? first : second;
    const int64_t i = int64_t{blockIdx.x} * kSumLanes + threadIdx.x;
    A sum = 0;
    wait_for_last();
    if (i < columns) {
        for (int64_t b = threadIdx.y; b < count; b += kSumParts * kSumAhead) {
            A ahead[kSumAhead];
#pragma unroll
            for (int k = 0; k < kSumAhead; ++k) {
                const int64_t block = b + k * kSumParts;
                ahead[k] = block < count ? partial[block * stride + i] : A(0);
            }
#pragma unroll
            for (int k = 0; k < kSumAhead; ++k) sum += ahead[k];
        }
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && i < columns) {
#pragma unroll
        for (int part = 1; part < kSumParts; ++part) sum += parts[part][threadIdx.x];
        store_one(out, i, sum);
    }
}

// A gradient with the shape, strides and dtype of `like`, whose sum is written densely.
template <class A>
struct ColumnSum {
    bool wanted = false;  // `partial` does not tell: that of no elements is null
    const A* partial = nullptr;
    Tensor result, dense;

    ColumnSum() = default;
    explicit ColumnSum(const Tensor& like, const A* partial = nullptr)
        : wanted(true),
          partial(partial),
          result(fresh_like(like)),
          dense(result.is_contiguous() ? result : fresh(like, {like.numel()})) {}
    explicit operator bool() const { return wanted; }

    Untyped out() const { return wanted ? Untyped(dense) : Untyped(); }
    PartialSums<A> of() const { return {partial, out()}; }
    void finish() {
        if (wanted && dense.data_ptr() != result.data_ptr()) {
            torch::stable::copy_(result, torch::stable::view(dense, shape_of(result)));
        }
    }
};

// One sum or two of as many columns, in one launch; nothing where neither is wanted.
template <class A>
void column_sums(const Launch& launch, ColumnSum<A>& first, ColumnSum<A>& second, int64_t count,
                 int64_t stride) {
    if (!first && !second) return;
    ColumnSum<A>& any = first ? first : second;
    const int64_t columns = any.result.numel();
    launch.early(
        column_sums_kernel<A>,
        dim3(static_cast<unsigned>(ceil_div<int64_t>(columns, kSumLanes)), first && second ? 2 : 1),
        dim3(kSumLanes, kSumParts), 0, any.of(), (second ? second : any).of(), count, stride,
        columns);
    first.finish(), second.finish();
}

template <class A>
Tensor column_sums(const Launch& launch, const Tensor& like, const A* partial, int64_t count,
                   int64_t stride) {
    ColumnSum<A> sum(like, partial), none;
    column_sums(launch, sum, none, count, stride);
    return sum.result;
}

}  // namespace fusewright::cuda
