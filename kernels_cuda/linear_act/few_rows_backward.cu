// The gradients of few rows in one pass over the weight: it is read for dx while its own gradient
// is written.
//
// A block has a strip of the inner dimension and a share of the columns of y; a second kernel adds
// up what the shares have for dx, in their order. What reaches the product, dy act'(pre), is
// computed by every block for its columns, as it would take longer to wait for another kernel. The
// instruction leaves free which column is which, as long as both operands agree, so whole pieces of
// 16 bytes of a row are loaded and stored.
#include "early.cuh"
#include "linear_act/fast_activation.cuh"
#include "linear_act/few_rows.cuh"
#include "linear_act/product.h"

namespace fusewright::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kRows = static_cast<int>(kFewRows);
constexpr int kStep = 16, kWidth = 64;  // of the weight's rows and columns, for a warp at once
constexpr int kAcross = 2, kAlong = kWarps / kAcross;  // warps side by side, and below each other
constexpr int kStrip = kAcross * kWidth, kTurn = kAlong * kStep;  // the same for a block
constexpr int kStages = 4;                                        // of the ring, a turn each
constexpr int kSegment = 512;         // columns of y whose gradient a block keeps at once
constexpr int kPitch = kSegment + 8;  // eight rows of it begin in eight groups of banks
// Threads of a block side by side in a segment, of 8 columns each; its rows of a thread.
constexpr int kLanes = kSegment / 8, kLines = kThreads / kLanes, kOwn = kRows / kLines;
constexpr int kSums = kRows * kStrip;
static_assert(kSegment % kTurn == 0);

constexpr size_t kRing = size_t{kStages} * 4 * kThreads * sizeof(uint4);
constexpr size_t kShared = kRing + size_t{kRows} * (kStrip + kPitch) * 2;
static_assert(kAlong * kSums * sizeof(float) <= kRing);

template <class T>
struct Work {
    const T *dy, *pre, *x, *weight;
    T* dweight;
    float* partial;  // shares × rows × inner, sums for dx
    Untyped dbias;
    int64_t x_stride, weight_stride;
    int rows, columns, inner;
    Activation activation;
};

// Four of 8 x 8 elements, as one operand of the instruction; `from` is a row of one of them.
template <bool transposed, class T>
__device__ inline void load_operand(uint32_t (&a)[4], const T* from) {
    const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    if constexpr (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                     : "r"(at)
                     : "memory");
    }
}

// Element j of two packs side by side.
__device__ inline uint32_t pair_of(const uint4& low, const uint4& high, int j) {
    const auto word = [&](const uint4& v) {
        return j / 2 == 0 ? v.x : j / 2 == 1 ? v.y : j / 2 == 2 ? v.z : v.w;
    };
    return __byte_perm(word(low), word(high), j % 2 == 0 ? 0x5410 : 0x7632);
}

// 16 bytes of a row, zeros where there is no such row; without a branch, which would make a load
// wait for the one before.
template <class T>
__device__ inline uint4 load_row(const T* from, int row, int rows, int64_t stride, int column) {
    uint4 v = *reinterpret_cast<const uint4*>(from + min(row, rows - 1) * stride + column);
    if (row >= rows) v = {};
    return v;
}

// dy act'(pre) of the segment's columns from `first` on, rounded, zeros past the end; and, where
// dbias is wanted, its sums by column.
template <class T>
__device__ inline void fill_segment(const Work<T>& w, int first, int end, T* dpre) {
    using P = Pack<T, 8>;
    __shared__ float sums[kLines][kSegment];
    const int line = static_cast<int>(threadIdx.x) / kLanes;
    const int column = static_cast<int>(threadIdx.x) % kLanes * 8;
    const int in_row = min(first + column, w.columns - 8);
    uint4 grad[kOwn], input[kOwn];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
        grad[k] = load_row(w.dy, k * kLines + line, w.rows, w.columns, in_row);
        input[k] = load_row(w.pre, k * kLines + line, w.rows, w.columns, in_row);
        if (first + column >= end) grad[k] = input[k] = {};
    }
    float values[kOwn][8], sum[8] = {};
#pragma unroll
    for (int k = 0; k < kOwn; ++k) accumulators(reinterpret_cast<const P&>(grad[k]), values[k]);
    dispatch(w.activation, [&](auto act) {
#pragma unroll
        for (int k = 0; k < kOwn; ++k) {
            float inputs[8];
            accumulators(reinterpret_cast<const P&>(input[k]), inputs);
#pragma unroll
            for (int j = 0; j < 8; ++j) values[k][j] *= derivative_for<T, act.value>(inputs[j]);
        }
    });
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
        *reinterpret_cast<P*>(dpre + (k * kLines + line) * kPitch + column) = pack_of<T>(values[k]);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += values[k][j];
    }
    if (blockIdx.x != 0 || !w.dbias) return;
#pragma unroll
    for (int j = 0; j < 8; ++j) sums[line][column + j] = sum[j];
    __syncthreads();
    for (int i = threadIdx.x; i < kSegment && first + i < end; i += kThreads) {
        float total = sums[0][i];
#pragma unroll
        for (int k = 1; k < kLines; ++k) total += sums[k][i];
        store_one(w.dbias, first + i, total);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) few_rows_backward_kernel(Work<T> w) {
    extern __shared__ uint4 ring[];                             // kStages × 4 × threads
    float* sums = reinterpret_cast<float*>(ring);               // then: kAlong × rows × strip
    uint4* tile = ring + kRing / sizeof(uint4);                 // rows × strip, of x
    T* dpre = reinterpret_cast<T*>(tile + kRows * kStrip / 8);  // rows × kPitch
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4, below = warp / kAcross;
    const int shares = static_cast<int>(gridDim.y), share = static_cast<int>(blockIdx.y);
    const int size = (w.columns + shares * kTurn - 1) / (shares * kTurn) * kTurn;
    const int first = min(share * size, w.columns), end = min(first + size, w.columns);
    const int turns = (end - first + kTurn - 1) / kTurn;
    const int strip = static_cast<int>(blockIdx.x) * kStrip, own = strip + warp % kAcross * kWidth;

    // The warp's rows of the weight in turn `turn`: lane (g, t) needs 2t, 2t + 1, 2t + 8, 2t + 9
    // from 8 g on. Neighbours ask for neighbours; each piece goes where neither asking nor reading
    // meets a bank twice.
    const auto slot = [&](int turn, int g, int t) {
        return ring + (turn % kStages) * 4 * kThreads + warp * 32 + t * 8 + (g ^ 2 * t);
    };
    const auto start = [&](int turn) {
        const int g = lane % 8, t = lane / 8;
        const int row = first + turn * kTurn + below * kStep + 2 * t, column = own + 8 * g;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = row + i % 2 + i / 2 * 8;
            const bool inside = at < end && column < w.inner;
            const T* from = w.weight + (inside ? at * w.weight_stride + column : 0);
            copy_async(slot(turn, g, t) + i * kThreads, from, inside);
        }
        end_stage();
    };
    for (int i = threadIdx.x; i < kRows * kStrip / 8; i += kThreads) {
        const int row = i / (kStrip / 8), column = strip + i % (kStrip / 8) * 8;
        const bool inside = row < w.rows && column < w.inner;
        copy_async(tile + i, w.x + (inside ? row * w.x_stride + column : 0), inside);
    }
    end_stage();
#pragma unroll
    for (int turn = 0; turn < kStages - 1; ++turn) start(turn);
    fill_segment(w, first, end, dpre);
    await_stage<kStages - 1>();
    __syncthreads();

    // Column c of tile j of x is 8 (c / 2) + 2 j + c % 2 of 32, so that what a thread gets of the
    // gradient is in one piece.
    uint32_t right[8][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = 2 * t + i % 2 + i / 2 * 8;
            v[i] = tile[(row * kStrip + warp % kAcross * kWidth + 32 * half) / 8 + g / 2];
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            right[4 * half + j][0] = pair_of(v[0], v[1], 2 * j + g % 2);
            right[4 * half + j][1] = pair_of(v[2], v[3], 2 * j + g % 2);
        }
    }

    float acc[8][4] = {};
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
        const int in_segment = turn * kTurn % kSegment;
        if (in_segment == 0 && turn > 0) {
            __syncthreads();
            fill_segment(w, first + turn * kTurn, end, dpre);
            __syncthreads();
        }
        const T* here = dpre + in_segment + below * kStep;
        uint32_t a[4];
        await_stage<kStages - 2>();
        __syncwarp();
        const uint4* v = slot(turn, g, t);
        const uint4 v0 = v[0], v1 = v[kThreads], v2 = v[2 * kThreads], v3 = v[3 * kThreads];
        load_operand<false>(a, here + lane % 16 * kPitch + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) {  // column c of tile j is 8 c + j
            multiply_add<T>(acc[j], a[0], a[1], a[2], a[3], pair_of(v0, v1, j), pair_of(v2, v3, j));
        }
        start(turn + kStages - 1);
        load_operand<true>(a, here + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8);
        const int row = first + turn * kTurn + below * kStep + g;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float upper[8], lower[8];  // of rows g and g + 8
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float d[4] = {};
                const auto& b = right[4 * half + j];
                multiply_add<T>(d, a[0], a[1], a[2], a[3], b[0], b[1]);
                upper[2 * j] = d[0], upper[2 * j + 1] = d[1];
                lower[2 * j] = d[2], lower[2 * j + 1] = d[3];
            }
            const int column = own + 32 * half + 8 * t;
            if (column >= w.inner) continue;
            T* to = w.dweight + int64_t{row} * w.inner + column;
            using P = Pack<T, 8>;
            if (row < end) *reinterpret_cast<P*>(to) = pack_of<T>(upper);
            if (row + 8 < end) {
                *reinterpret_cast<P*>(to + int64_t{8} * w.inner) = pack_of<T>(lower);
            }
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();  // the ring becomes room for the sums

#pragma unroll
    for (int e = 0; e < 4; ++e) {
        const int row = g + e / 2 * 8, column = warp % kAcross * kWidth + 16 * t + e % 2 * 8;
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[below * kSums + row * kStrip + column + j] = acc[j][e];
    }
    __syncthreads();
    let_next_begin();
    for (int i = 4 * threadIdx.x; i < kSums; i += 4 * kThreads) {
        const int row = i / kStrip, column = strip + i % kStrip;
        if (row >= w.rows || column >= w.inner) continue;
        float4 sum = *reinterpret_cast<const float4*>(sums + i);
#pragma unroll
        for (int k = 1; k < kAlong; ++k) {
            const float4 other = *reinterpret_cast<const float4*>(sums + i + k * kSums);
            sum.x += other.x, sum.y += other.y, sum.z += other.z, sum.w += other.w;
        }
        *reinterpret_cast<float4*>(w.partial + (int64_t{share} * w.rows + row) * w.inner + column) =
            sum;
    }
}

constexpr int kSumThreads = 128;

// dx from the sums of all shares, in their order.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_shares_kernel(const float* partial, T* dx, int64_t packs, int shares) {
    wait_for_last();
    const int64_t i = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
    if (i >= packs) return;
    const float4* from = reinterpret_cast<const float4*>(partial) + i;
    float sum[4] = {};
    for (int share = 0; share < shares; share += 4) {
        float4 v[4] = {};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (share + k < shares) v[k] = from[(share + k) * packs];
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            sum[0] += v[k].x, sum[1] += v[k].y, sum[2] += v[k].z, sum[3] += v[k].w;
        }
    }
    reinterpret_cast<Pack<T, 4>*>(dx)[i] = pack_of<T>(sum);
}

// Shares of the columns of y: enough to fill the device twice, with a few turns for each.
int64_t shares_of(const Launch& launch, const FewRowsGradient& p, int64_t strips) {
    constexpr int64_t few = 3;
    return std::max<int64_t>(
        1, std::min<int64_t>(2 * launch.processors() / strips, p.columns / (few * kTurn)));
}

template <class T>
void run(const Launch& launch, const FewRowsGradient& p) {
    const int64_t strips = ceil_div<int64_t>(p.inner, kStrip),
                  shares = shares_of(launch, p, strips);
    const Tensor partial = fresh(p.dx, {shares, p.rows, p.inner}, ScalarType::Float);
    const Work<T> work{static_cast<const T*>(p.dy),
                       static_cast<const T*>(p.pre),
                       static_cast<const T*>(p.x),
                       static_cast<const T*>(p.weight),
                       data<T>(p.dweight),
                       data<float>(partial),
                       p.dbias,
                       p.x_stride,
                       p.weight_stride,
                       static_cast<int>(p.rows),
                       static_cast<int>(p.columns),
                       static_cast<int>(p.inner),
                       p.activation};
    launch(few_rows_backward_kernel<T>,
           dim3(static_cast<unsigned>(strips), static_cast<unsigned>(shares)), dim3(kThreads),
           kShared, work);
    const int64_t packs = p.rows * p.inner / 4;
    launch.early(sum_shares_kernel<T>,
                 dim3(static_cast<unsigned>(ceil_div<int64_t>(packs, kSumThreads))),
                 dim3(kSumThreads), 0, data<const float>(partial), data<T>(p.dx), packs,
                 static_cast<int>(shares));
}

}  // namespace

bool few_rows_backward_serves(const FewRowsGradient& p) {
    const auto packs = [](const void* at) { return aligned(at, 16); };
    return p.rows <= kRows && p.columns % 8 == 0 && p.inner % 8 == 0 && p.x_stride % 8 == 0 &&
           p.weight_stride % 8 == 0 && std::max(p.columns, p.inner) <= int64_t{1} << 30 &&
           packs(p.dy) && packs(p.pre) && packs(p.x) && packs(p.weight);
}

void few_rows_backward(const Launch& launch, const FewRowsGradient& p) {
    with_native(p.dtype, "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (sizeof(T) == 2) run<T>(launch, p);
    });
}

}  // namespace fusewright::cuda
