// The second kernel of the norms' gradients: it adds up the blocks' sums for weight and bias, then
// computes the rows of dx that these lay in.
#pragma once

#include "early.cuh"
#include "norm_pipe.cuh"

namespace fusewright::cuda {

// What a row of dx needs to know of its row of x.
struct RowFacts {
    float mean, rest, rstd, slope, shift;  // rest: what a mean in float lost
};

// Calls f(column, v, g) for the packs of a row in the pipe: its normalised elements, and their
// gradients with the weight. Nothing else is in registers: more blocks hide more of what each waits
// for.
template <bool centred, Fused fused, class T, class Shape, class F>
__device__ inline void each_pack(const NormParams<float>& p, const RowPipe<T, Shape>& pipe,
                                 int stage, const RowFacts& row, F&& f) {
    constexpr int N = kPack<T>;
    constexpr int ahead = fused == Fused::none ? Shape::packs : 1;  // activations are long
    const float offset = weight_offset<centred>(p);
#pragma unroll ahead
    for (int k = 0; k < Shape::packs; ++k) {
        const int i = pipe.row.column(k);
        if (i >= p.columns) continue;
        float v[N], g[N], weight[N], bias[N];
        accumulators(pipe.slot(stage, 0, k), v);
        accumulators(pipe.slot(stage, 1, k), g);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            v[j] = (v[j] - row.mean - row.rest) * row.rstd;
            weight[j] = 1, bias[j] = 0;
        }
        if (p.weight) load_pack(p.weight, i, weight);
#pragma unroll
        for (int j = 0; j < N; ++j) weight[j] += offset;
        if constexpr (fused != Fused::none) {
            if (p.bias) load_pack(p.bias, i, bias);
            differentiate<fused>(p, v, weight, bias, g);
        }
#pragma unroll
        for (int j = 0; j < N; ++j) g[j] *= weight[j];
        f(i, v, g);
    }
}

template <bool centred, Fused fused, class T, class Shape>
__device__ inline RowFacts facts_of(const NormBackward<T>& io, const NormParams<float>& p,
                                    const RowPipe<T, Shape>& pipe, int stage, int64_t at,
                                    BlockScratch<Shape::threads, 2, float>& scratch, int& turn) {
    RowFacts row{centred ? io.mean[at] : 0.f, 0, io.rstd[at], 0, 0};
    const float scale = 1.f / static_cast<float>(p.columns);
    if constexpr (centred && kExactMean<T>) {
        float lost[1] = {0};
        pipe.row.each([&](int k, int) {
            float v[kPack<T>];
            accumulators(pipe.slot(stage, 0, k), v);
            for (const float element : v) lost[0] += element - row.mean;
        });
        block_sum(lost, scratch, turn);
        row.rest = lost[0] * scale;
    }
    float sums[2] = {0, 0};
    each_pack<centred, fused>(p, pipe, stage, row, [&](int, const auto& v, const auto& g) {
#pragma unroll
        for (int j = 0; j < kPack<T>; ++j) sums[0] += g[j] * v[j], sums[1] += g[j];
    });
    block_sum(sums, scratch, turn);
    row.slope = sums[0] * scale * row.rstd;
    if constexpr (centred) row.shift = sums[1] * scale * row.rstd;
    return row;
}

// Blocks of a shape on a multiprocessor.
template <class Shape>
constexpr int kFinishBlocks = 1024 / Shape::block;

constexpr int kMostStages = 8;

// Adds up a strip of all blocks' sums, then stores the rows of dx that it lay in. What is to be
// known of the first `stages` turns of them it knows before the sums are there.
template <class T, bool centred, Fused fused, class Shape>
__global__ void __launch_bounds__(Shape::block, kFinishBlocks<Shape>)
    norm_finish_kernel(const __grid_constant__ NormBackward<T> io,
                       const __grid_constant__ NormParams<float> p, int stages, Untyped dweight,
                       Untyped dbias) {
    constexpr int N = kPack<T>;
    using Pipe = RowPipe<T, Shape>;
    extern __shared__ __align__(16) char bytes[];
    __shared__ BlockScratch<Shape::threads, 2, float> scratch;
    __shared__ RowFacts facts[kMostStages][Shape::rows];
    int turn = 0;
    const Pipe pipe{
        reinterpret_cast<typename Pipe::Packed*>(bytes), {static_cast<int>(p.columns)}, 2};
    const int strip = static_cast<int>(blockIdx.x);
    const int own = Shape::rows == 1 ? 0 : static_cast<int>(threadIdx.x) / Shape::threads;
    const int64_t first = io.sums.first_late + int64_t{strip} * io.sums.late;
    int done = 0;  // turns
    do {
        const auto late = [&](int stage) { return (done + stage) * Shape::rows + own; };
        const auto has = [&](int stage) { return stage < stages && late(stage) < io.sums.late; };
#pragma unroll 1
        for (int stage = 0; has(stage); ++stage) {
            fetch_row(pipe, io, stage, first + late(stage));
        }
        Pipe::wait_for_all();
#pragma unroll 1
        for (int stage = 0; has(stage); ++stage) {
            const RowFacts row =
                facts_of<centred, fused>(io, p, pipe, stage, first + late(stage), scratch, turn);
            if (Shape::lane() == 0) facts[stage][own] = row;
        }
        if (done == 0) {
            wait_for_last();
            add_strip<Shape::block>(io.sums, strip, static_cast<int>(p.columns), dweight, dbias);
        }
        __syncthreads();
#pragma unroll 1
        for (int stage = 0; has(stage); ++stage) {
            const RowFacts row = facts[stage][own];
            const int64_t at = first + late(stage);
            each_pack<centred, fused>(p, pipe, stage, row, [&](int i, const auto& v, auto& g) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    g[j] = fmaf(-row.slope, v[j], fmaf(g[j], row.rstd, -row.shift));
                }
                *reinterpret_cast<Pack<T, N>*>(io.dx + at * io.dx_rows + i) = pack_of<T>(g);
            });
        }
        __syncthreads();
        done += stages;
    } while (done * Shape::rows < io.sums.late);
}

// `limit` is what shared memory a block of the device may ask for.
template <bool centred, Fused fused, class Shape, class T>
void norm_finish(const Launch& launch, const NormBackward<T>& io, const NormParams<float>& p,
                 size_t limit, const Untyped& dweight, const Untyped& dbias) {
    // for relu there is no kernel of its own
    constexpr Fused known = fused == Fused::none ? Fused::none : Fused::any;
    constexpr size_t stage = RowPipe<T, Shape>::bytes(2, 1);
    const int64_t room = (limit - 16384) / stage / kFinishBlocks<Shape>;
    const int64_t stages = std::min(ceil_div<int64_t>(io.sums.late, Shape::rows),
                                    std::clamp<int64_t>(room, 1, kMostStages));
    const int64_t strips = ceil_div<int64_t>(p.columns, io.sums.width);
    launch.early(norm_finish_kernel<T, centred, known, Shape>, dim3(static_cast<unsigned>(strips)),
                 dim3(Shape::block), stages * stage, io, p, static_cast<int>(stages), dweight,
                 dbias);
}

}  // namespace fusewright::cuda
