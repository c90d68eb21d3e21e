// The blocks' sums for weight and bias on their way to the kernel that adds them up. They lie where
// the last rows of dx will: that kernel computes these once it has read them, so that a backward
// takes no memory beyond its results.
#pragma once

#include "element.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace fusewright::cuda {

// The sums for a strip of columns lie together, from all blocks in their order, so that a block
// that adds them up may write over them: no other reads there.
struct StripSums {
    float* data;         // null where no parameter's gradient is needed
    int64_t first_late;  // the first row of dx that the first kernel leaves out
    int late;            // such rows a strip; none where the sums have memory of their own
    int width;           // columns of a strip, a multiple of four
    int64_t pitch;       // from strip to strip
    int blocks, planes;  // that have sums; of weight and bias

    // What a block has for four columns of a plane.
    __device__ float4* at(int block, int plane, int column) const {
        const int strip = column / width;
        float* to = data + strip * pitch + (int64_t{block} * planes + plane) * width;
        return reinterpret_cast<float4*>(to + (column - strip * width));
    }
};

// Where they lie: in dx, in at most `strips`, or, where they don't fit there or `row`, the floats
// of a row of dx, is 0, in memory of their own, as one strip.
inline StripSums strip_sums(int64_t rows, int64_t columns, int64_t row, int64_t blocks,
                            int64_t planes, int64_t strips) {
    constexpr int64_t most_late = 64;
    const int64_t each = blocks * planes;
    StripSums sums{};
    sums.blocks = static_cast<int>(blocks), sums.planes = static_cast<int>(planes);
    sums.width = static_cast<int>(columns), sums.first_late = rows;
    if (row == 0) return sums;
    const auto width = [&](int64_t late) { return std::min(columns, late * row / (4 * each) * 4); };
    int64_t late = std::max<int64_t>(1, ceil_div(4 * each, row));
    while (late < most_late && ceil_div(columns, width(late)) > strips) ++late;
    if (late > most_late || late * ceil_div(columns, width(late)) > rows) return sums;
    sums.width = static_cast<int>(width(late)), sums.late = static_cast<int>(late);
    sums.pitch = late * row;
    sums.first_late = rows - late * ceil_div(columns, width(late));
    return sums;
}

// Adds up a strip, in an order that the grid of the first kernel decides alone.
template <int threads>
__device__ inline void add_strip(const StripSums& sums, int strip, int columns,
                                 const Untyped& dweight, const Untyped& dbias) {
    __shared__ float4 parts[threads];
    const int thread = static_cast<int>(threadIdx.x);
    const int packs = sums.width / 4, across = sums.planes * packs;
    int lanes = 1;  // side by side
    while (lanes < across && lanes < threads) lanes *= 2;
    const auto* from = reinterpret_cast<const float4*>(sums.data + strip * sums.pitch);
    for (int first = 0; first < across; first += lanes) {
        const int i = first + thread % lanes, column = strip * sums.width + i % packs * 4;
        const bool inside = i < across && column < columns;
        float4 sum{};
        if (inside) {
#pragma unroll 8
            for (int block = thread / lanes; block < sums.blocks; block += threads / lanes) {
                add_to(sum, load_sum(from + int64_t{block} * across + i));
            }
        }
        parts[thread] = sum;
        __syncthreads();
        for (int half = threads / 2; half >= lanes; half /= 2) {
            if (thread < half) add_to(parts[thread], parts[thread + half]);
            __syncthreads();
        }
        Untyped out = dbias;
        if (i < packs) out = dweight;
        if (thread < lanes && inside && out) {
            const float4& total = parts[thread];
            store_one(out, column, total.x), store_one(out, column + 1, total.y);
            store_one(out, column + 2, total.z), store_one(out, column + 3, total.w);
        }
        __syncthreads();
    }
}

}  // namespace fusewright::cuda
