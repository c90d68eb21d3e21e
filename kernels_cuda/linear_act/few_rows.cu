// Few rows: the weight is read once, at the memory's speed, straight into the registers of tensor
// cores, and everything else follows from that.
//
// A block makes 32 columns of y. The product is y^T = weight x^T, so that 16 columns of y fill the
// tensor core's larger side. The warps of a block, and the blocks of a cluster, take chunks of the
// inner dimension in turn; their sums meet in shared memory, in a fixed order. Within a chunk the
// order of the inner dimension is free as long as both operands share it, so a thread loads 16
// bytes of a row where the instruction's layout would have it load 4.
#include <cooperative_groups.h>

#include "element.cuh"
#include "linear_act/fast_activation.cuh"
#include "linear_act/product.h"

namespace fusewright::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kTiles = 2, kColumns = 16 * kTiles;  // of y, in a block
constexpr int kChunk = 64;                         // of the inner dimension, for a warp at a time

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

template <class T>
__device__ inline void multiply_add(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same_v<T, __half>) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
}

// The weight passes once and is not worth a place in the first cache, which x wants.
__device__ inline uint4 load_streaming(const void* p) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
}

// `row_tiles` times 8 rows of x.
template <class T, int row_tiles>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(Work<T> w) {
    constexpr int kRows = 8 * row_tiles, kSums = kRows * kColumns;
    extern __shared__ float sums[];  // a warp's: rows × columns
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4;
    const int64_t first = int64_t{blockIdx.x} * kColumns;

    // Rows past the end read the last one; what they make is not stored.
    const T* weight[kTiles][2];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int64_t column = min(first + 16 * i + 8 * h + g, w.columns - 1);
            weight[i][h] = w.weight + column * w.weight_stride + 8 * t;
        }
    }
    const T* x[row_tiles];
#pragma unroll
    for (int j = 0; j < row_tiles; ++j)
        x[j] = w.x + min(8 * j + g, w.rows - 1) * w.x_stride + 8 * t;

    float acc[kTiles][row_tiles][4] = {};
    const int step = kChunk * kWarps * static_cast<int>(gridDim.y);
#pragma unroll 2
    for (int k = kChunk * (warp + kWarps * static_cast<int>(blockIdx.y)); k < w.inner; k += step) {
        uint4 a[2][kTiles][2], b[2][row_tiles];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = k + 32 * half;
            const bool inside = at + 8 * t < w.inner;
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    a[half][i][h] = inside ? load_streaming(weight[i][h] + at) : uint4{};
                }
            }
#pragma unroll
            for (int j = 0; j < row_tiles; ++j) {
                b[half][j] = inside ? __ldg(reinterpret_cast<const uint4*>(x[j] + at)) : uint4{};
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
                const uint4 a0 = a[half][i][0], a1 = a[half][i][1];
#pragma unroll
                for (int j = 0; j < row_tiles; ++j) {
                    const uint4 v = b[half][j];
                    multiply_add<T>(acc[i][j], a0.x, a1.x, a0.y, a1.y, v.x, v.y);
                    multiply_add<T>(acc[i][j], a0.z, a1.z, a0.w, a1.w, v.z, v.w);
                }
            }
        }
    }

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
    for (int i = threadIdx.x; i < kSums; i += kThreads) {
        float sum = sums[i];
#pragma unroll
        for (int other = 1; other < kWarps; ++other) sum += sums[other * kSums + i];
        sums[i] = sum;
    }

    // Each block of the cluster finishes its share of the elements.
    const int parts = static_cast<int>(gridDim.y), part = static_cast<int>(blockIdx.y);
#if __CUDA_ARCH__ >= 900
    const auto cluster = cooperative_groups::this_cluster();
    cluster.sync();
#else
    __syncthreads();
#endif
    for (int i = part * kThreads + static_cast<int>(threadIdx.x); i < kSums;
         i += parts * kThreads) {
#if __CUDA_ARCH__ >= 900
        float value = *cluster.map_shared_rank(&sums[i], 0);
        for (int r = 1; r < parts; ++r) value += *cluster.map_shared_rank(&sums[i], r);
#else
        float value = sums[i];
#endif
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
    cluster.sync();  // nobody leaves while others read its sums
#endif
}

// Blocks of a cluster: enough of them to fill the device, each with work for all its warps.
int parts_of(const Launch& launch, const Product& p, int64_t groups) {
    if (launch.attribute(cudaDevAttrClusterLaunch) == 0) return 1;
    const int64_t wanted = 2 * launch.processors(), chunks = ceil_div<int64_t>(p.inner, kChunk);
    int parts = 1;
    while (parts < 8 && 2 * parts * groups <= wanted && 2 * parts * kWarps <= chunks) parts *= 2;
    return parts;
}

template <class T, int row_tiles>
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
    launch.clusters(few_rows_kernel<T, row_tiles>,
                    dim3(static_cast<unsigned>(groups), static_cast<unsigned>(parts)),
                    dim3(1, static_cast<unsigned>(parts)), dim3(kThreads),
                    sizeof(float) * kWarps * 8 * row_tiles * kColumns, work);
}

}  // namespace

void product_few_rows(const Launch& launch, const Product& p) {
    with_native(p.dtype, "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (sizeof(T) == 2) {
            if (p.rows <= 8) return run<T, 1>(launch, p);
            if (p.rows <= 16) return run<T, 2>(launch, p);
            if (p.rows <= 32) return run<T, 4>(launch, p);
            return run<T, 8>(launch, p);
        }
    });
}

}  // namespace fusewright::cuda
