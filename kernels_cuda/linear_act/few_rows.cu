// Few rows: the weight is read once, at the memory's speed, and everything else follows from that.
//
// A block makes 32 columns of y. The product is y^T = weight x^T, so that 16 columns of y fill the
// tensor core's larger side. The warps of a block, and the blocks of a cluster, take chunks of the
// inner dimension in turn; their sums meet in shared memory, in a fixed order. Within a chunk the
// order of the inner dimension is free as long as both operands share it, so a thread takes 16
// bytes of a row where the instruction's layout would have it take 4. They come through a ring in
// shared memory in which every thread reads what it has asked for itself: more than registers hold
// is under way, and nobody waits for another.
#include <cooperative_groups.h>

#include "linear_act/fast_activation.cuh"
#include "linear_act/few_rows.cuh"
#include "linear_act/product.h"

namespace fusewright::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kTiles = 2, kColumns = 16 * kTiles;  // of y, in a block
constexpr int kChunk = 64;                         // of the inner dimension, for a warp in turn

template <class T>
struct Work {
    const T* x;
    const T* weight;
    const T* bias;
    T* y;
    T* pre;
    int64_t x_stride, weight_stride, columns;
    int rows, inner;
    Activation activation;
};

template <int count>
__device__ inline float sum_of(const float* values, int stride) {
    float sum = values[0];
#pragma unroll
    for (int i = 1; i < count; ++i) sum += values[i * stride];
    return sum;
}

// A stage is half a chunk.
template <int row_tiles, int stages>
constexpr size_t kRing = size_t{stages} * (2 * kTiles + row_tiles) * kThreads * sizeof(uint4);

// `row_tiles` times 8 rows of x.
template <class T, int row_tiles, int stages>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(Work<T> w) {
    constexpr int kRows = 8 * row_tiles, kSums = kRows * kColumns, kLoads = 2 * kTiles + row_tiles;
    static_assert(kWarps * kSums * sizeof(float) <= (kRing<row_tiles, stages>));
    extern __shared__ uint4 ring[];                // stages × loads × threads
    float* sums = reinterpret_cast<float*>(ring);  // then: warps × rows × columns
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4;
    const int64_t first = int64_t{blockIdx.x} * kColumns;
    const int parts = static_cast<int>(gridDim.y), part = static_cast<int>(blockIdx.y);

    // Rows past the end read the last one; what they make is not stored.
    const T* from[kLoads];
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
        from[i] = w.weight + min(first + 8 * i + g, w.columns - 1) * w.weight_stride + 8 * t;
    }
#pragma unroll
    for (int j = 0; j < row_tiles; ++j) {
        from[2 * kTiles + j] = w.x + min(8 * j + g, w.rows - 1) * w.x_stride + 8 * t;
    }
    const auto start = [&](int step) {
        const int at = kChunk * (warp + kWarps * (part + parts * (step / 2))) + 32 * (step % 2);
        uint4* to = ring + (step % stages) * kLoads * kThreads + threadIdx.x;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const bool inside = at + 8 * t < w.inner;
            copy_async(to + i * kThreads, inside ? from[i] + at : from[i], inside);
        }
        end_stage();
    };

    float acc[kTiles][row_tiles][4] = {};
    const int turn = kChunk * kWarps * parts, offset = kChunk * (warp + kWarps * part);
    const int steps = 2 * max(0, (w.inner - offset + turn - 1) / turn);
#pragma unroll
    for (int step = 0; step < stages - 1; ++step) start(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        await_stage<stages - 2>();
        const uint4* v = ring + (step % stages) * kLoads * kThreads + threadIdx.x;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            const uint4 a0 = v[2 * i * kThreads], a1 = v[(2 * i + 1) * kThreads];
#pragma unroll
            for (int j = 0; j < row_tiles; ++j) {
                const uint4 b = v[(2 * kTiles + j) * kThreads];
                multiply_add<T>(acc[i][j], a0.x, a1.x, a0.y, a1.y, b.x, b.y);
                multiply_add<T>(acc[i][j], a0.z, a1.z, a0.w, a1.w, b.z, b.w);
            }
        }
        start(step + stages - 1);
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();  // the ring becomes room for the sums

#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < row_tiles; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = 8 * j + 2 * t + e % 2, column = 16 * i + 8 * (e / 2) + g;
                sums[warp * kSums + row * kColumns + column] = acc[i][j][e];
            }
        }
    }
    __syncthreads();
    if (parts > 1) {
        for (int i = threadIdx.x; i < kSums; i += kThreads) {
            sums[i] = sum_of<kWarps>(sums + i, kSums);
        }
#if __CUDA_ARCH__ >= 900
        cooperative_groups::this_cluster().sync();
#endif
    }
    // Each block of a cluster finishes its share of the elements.
#pragma unroll 1
    for (int i = part * kThreads + static_cast<int>(threadIdx.x); i < kSums;
         i += parts * kThreads) {
        float value = 0;
        if (parts == 1) {
            value = sum_of<kWarps>(sums + i, kSums);
        } else {
#if __CUDA_ARCH__ >= 900
            const auto cluster = cooperative_groups::this_cluster();
            for (int r = 0; r < parts; ++r) value += *cluster.map_shared_rank(&sums[i], r);
#endif
        }
        const int row = i / kColumns;
        const int64_t column = first + i % kColumns;
        if (row >= w.rows || column >= w.columns) continue;
        if (w.bias != nullptr) value += to_acc(w.bias[column]);
        const int64_t at = row * w.columns + column;
        if (w.pre != nullptr) w.pre[at] = from_acc<T>(value);
        dispatch(w.activation, [&](auto act) { value = fast_activate<act.value>(value); });
        w.y[at] = from_acc<T>(value);
    }
#if __CUDA_ARCH__ >= 900
    if (parts > 1) cooperative_groups::this_cluster().sync();  // others read this block's sums
#endif
}

// Blocks of a cluster: enough of them to fill the device, each with work for all its warps.
int parts_of(const Launch& launch, const Product& p, int64_t groups) {
    if (launch.attribute(cudaDevAttrClusterLaunch) == 0) return 1;
    const int64_t wanted = launch.processors(), chunks = ceil_div<int64_t>(p.inner, kChunk);
    int parts = 1;
    while (parts < 8 && 2 * parts * groups <= wanted && 2 * parts * kWarps <= chunks) parts *= 2;
    return parts;
}

template <class T, int row_tiles, int stages>
void run(const Launch& launch, const Product& p) {
    const Work<T> work{static_cast<const T*>(p.x),
                       static_cast<const T*>(p.weight),
                       static_cast<const T*>(p.bias),
                       static_cast<T*>(p.y),
                       static_cast<T*>(p.pre),
                       p.x_stride,
                       p.weight_stride,
                       p.columns,
                       static_cast<int>(p.rows),
                       static_cast<int>(p.inner),
                       p.activation};
    const int64_t groups = ceil_div<int64_t>(p.columns, kColumns);
    const int parts = parts_of(launch, p, groups);
    launch.clusters(few_rows_kernel<T, row_tiles, stages>,
                    dim3(static_cast<unsigned>(groups), static_cast<unsigned>(parts)),
                    dim3(1, static_cast<unsigned>(parts)), dim3(kThreads), kRing<row_tiles, stages>,
                    work);
}

}  // namespace

// Every round of blocks takes as long as the first, also a last one that few of them are left for.
bool product_few_rows_pays(const Launch& launch, const Product& p) {
    const int64_t blocks = ceil_div<int64_t>(p.columns, kColumns), room = launch.processors();
    return blocks <= room || 10 * blocks >= 9 * room * ceil_div(blocks, room);
}

void product_few_rows(const Launch& launch, const Product& p) {
    with_native(p.dtype, "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (sizeof(T) == 2) {
            const bool roomy = launch.shared_limit() >= kRing<2, 8>;
            if (p.rows <= 8) return roomy ? run<T, 1, 8>(launch, p) : run<T, 1, 4>(launch, p);
            return roomy ? run<T, 2, 8>(launch, p) : run<T, 2, 4>(launch, p);
        }
    });
}

}  // namespace fusewright::cuda
