// The gradients of few rows in one pass over the weight: it is read for dx while its own gradient
// is written.
//
// A block has a strip of the inner dimension and a share of the columns of y; a second kernel adds
// up what the shares have for dx, in their order. Until then that lies where the last rows of a
// share of the weight's gradient will: the second kernel computes these once it has read it, so no
// memory is needed beyond the results. What reaches the product, dy act'(pre), is computed by every
// block for its columns, as it would take longer to wait for another kernel. The instruction leaves
// free which column is which, as long as both operands agree, so whole pieces of 16 bytes of a row
// are loaded and stored.
#include "early.cuh"
#include "linear_act/fast_activation.cuh"
#include "linear_act/few_rows.cuh"
#include "linear_act/product.h"
#include "reduce.cuh"

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

constexpr int kLate = 2 * kRows;  // rows of the weight's gradient, a share, for the second kernel

template <class T>
struct Work {
    const T *dy, *pre, *x, *weight;
    T *dweight, *dx;
    Untyped dbias;
    int64_t x_stride, weight_stride;
    int rows, columns, inner;
    int shares, turns, longer;  // turns of a share; the first `longer` ones have one more
    Activation activation;

    // The first column of y of a share.
    __device__ int begin(int share) const {
        return min((turns * share + min(share, longer)) * kTurn, columns);
    }
    __device__ int first_late(int share) const { return begin(share + 1) - kLate; }
    // What a share has for dx, four columns from a multiple of four on: as fp32 they take half a
    // piece of two rows of the weight's gradient.
    __device__ float4* sum(int share, int row, int column) const {
        const int at = first_late(share) + 2 * row + column / 4 % 2;
        return reinterpret_cast<float4*>(dweight + int64_t{at} * inner + column / 8 * 8);
    }
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

// values = dy act'(pre) of packs of a thread, one branch on the activation for all of them.
template <class T, int K>
__device__ inline void differentiate(const Work<T>& w, const uint4 (&grad)[K],
                                     const uint4 (&input)[K], float (&values)[K][8]) {
    using P = Pack<T, 8>;
#pragma unroll
    for (int k = 0; k < K; ++k) accumulators(reinterpret_cast<const P&>(grad[k]), values[k]);
    dispatch(w.activation, [&](auto act) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            float inputs[8];
            accumulators(reinterpret_cast<const P&>(input[k]), inputs);
#pragma unroll
            for (int j = 0; j < 8; ++j) values[k][j] *= derivative_for<T, act.value>(inputs[j]);
        }
    });
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
    differentiate(w, grad, input, values);
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
    let_next_begin();  // where its blocks find room they get what they can before they wait
    extern __shared__ uint4 ring[];                             // kStages × 4 × threads
    float* sums = reinterpret_cast<float*>(ring);               // then: kAlong × rows × strip
    uint4* tile = ring + kRing / sizeof(uint4);                 // rows × strip, of x
    T* dpre = reinterpret_cast<T*>(tile + kRows * kStrip / 8);  // rows × kPitch
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4, below = warp / kAcross;
    const int share = static_cast<int>(blockIdx.y);
    const int first = w.begin(share), end = w.begin(share + 1), late = w.first_late(share);
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
            if (row < late) *reinterpret_cast<P*>(to) = pack_of<T>(upper);
            if (row + 8 < late) {
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
    for (int i = 4 * threadIdx.x; i < kSums; i += 4 * kThreads) {
        const int row = i / kStrip, column = strip + i % kStrip;
        if (row >= w.rows || column >= w.inner) continue;
        float4 sum = *reinterpret_cast<const float4*>(sums + i);
#pragma unroll
        for (int k = 1; k < kAlong; ++k) {
            add_to(sum, *reinterpret_cast<const float4*>(sums + i + k * kSums));
        }
        store_sum(w.sum(share, row, column), sum);
    }
}

constexpr int kOwnColumns = 16;  // columns of a block of the second kernel
constexpr int kFours = kOwnColumns / 4, kParts = kThreads / (kRows * kFours);

// A block has some columns: dx from the sums of all shares, in their order, then the rows of the
// weight's gradient that these lay in. What these rows need it gets before the sums are there.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) few_rows_finish_kernel(Work<T> w) {
    __shared__ __align__(16) T dpre[kRows * kPitch], tile[kRows * kOwnColumns];
    __shared__ float4 parts[kParts][kRows * kFours];
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int g = lane / 4, t = lane % 4, own = static_cast<int>(blockIdx.x) * kOwnColumns;
    const int late = kLate * w.shares;
    const auto place = [&](int i) { return w.first_late(i / kLate) + i % kLate; };
    // dy act'(pre) for rows from `from` on, eight at a time
    const auto fill = [&](int from) {
        const int packs = kRows * min(late - from, kSegment) / 8;
#pragma unroll 1
        for (int i = thread; i < packs; i += kThreads) {
            const int row = i % kRows, column = i / kRows * 8, at = place(from + column);
            const uint4 grad[1] = {load_row(w.dy, row, w.rows, w.columns, at)};
            const uint4 input[1] = {load_row(w.pre, row, w.rows, w.columns, at)};
            float values[1][8];
            differentiate(w, grad, input, values);
            *reinterpret_cast<Pack<T, 8>*>(dpre + row * kPitch + column) = pack_of<T>(values[0]);
        }
    };
    if (thread < 2 * kRows) {
        const int column = min(own + thread % 2 * 8, w.inner - 8);
        reinterpret_cast<uint4*>(tile)[thread] =
            load_row(w.x, thread / 2, w.rows, w.x_stride, column);
    }
    fill(0);
    wait_for_last();
    const int part = thread / (kRows * kFours), sum_of = thread % (kRows * kFours);
    const int row = sum_of / kFours, column = own + sum_of % kFours * 4;
    const bool inside = row < w.rows && column < w.inner;
    float4 sum{};
    if (inside) {
#pragma unroll 4
        for (int share = part; share < w.shares; share += kParts) {
            add_to(sum, load_sum(w.sum(share, row, column)));
        }
    }
    parts[part][sum_of] = sum;
    __syncthreads();  // the sums are read
    if (part == 0 && inside) {
#pragma unroll
        for (int k = 1; k < kParts; ++k) add_to(sum, parts[k][sum_of]);
        const float values[4] = {sum.x, sum.y, sum.z, sum.w};
        *reinterpret_cast<Pack<T, 4>*>(w.dx + int64_t{row} * w.inner + column) = pack_of<T>(values);
    }
    // column c of half h of x is 4 (c / 2) + 2 h + c % 2, so that a thread has four side by side
    uint32_t right[2][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const auto* from = reinterpret_cast<const uint16_t*>(tile) +
                               (2 * t + 8 * i) * kOwnColumns + 4 * (g / 2) + 2 * half + g % 2;
            right[half][i] = from[0] | uint32_t{from[kOwnColumns]} << 16;
        }
    }
    for (int from = 0; from < late; from += kSegment) {
        if (from > 0) {
            __syncthreads();
            fill(from);
            __syncthreads();
        }
#pragma unroll 1
        for (int i = kStep * warp; i < min(late - from, kSegment); i += kStep * kWarps) {
            uint32_t a[4];
            load_operand<true>(a,
                               dpre + i + (lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8);
            float low[4] = {}, high[4] = {};
            multiply_add<T>(low, a[0], a[1], a[2], a[3], right[0][0], right[0][1]);
            multiply_add<T>(high, a[0], a[1], a[2], a[3], right[1][0], right[1][1]);
            T* to = w.dweight + int64_t{place(from + i) + g} * w.inner + own + 4 * t;
            if (own + 4 * t >= w.inner) continue;
#pragma unroll
            for (int below = 0; below < 2; ++below) {
                const float values[4] = {low[2 * below], low[2 * below + 1], high[2 * below],
                                         high[2 * below + 1]};
                *reinterpret_cast<Pack<T, 4>*>(to + int64_t{8} * below * w.inner) =
                    pack_of<T>(values);
            }
        }
    }
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
                  shares = shares_of(launch, p, strips),
                  turns = ceil_div<int64_t>(p.columns, kTurn);
    const Work<T> work{static_cast<const T*>(p.dy),
                       static_cast<const T*>(p.pre),
                       static_cast<const T*>(p.x),
                       static_cast<const T*>(p.weight),
                       data<T>(p.dweight),
                       data<T>(p.dx),
                       p.dbias,
                       p.x_stride,
                       p.weight_stride,
                       static_cast<int>(p.rows),
                       static_cast<int>(p.columns),
                       static_cast<int>(p.inner),
                       static_cast<int>(shares),
                       static_cast<int>(turns / shares),
                       static_cast<int>(turns % shares),
                       p.activation};
    launch(few_rows_backward_kernel<T>,
           dim3(static_cast<unsigned>(strips), static_cast<unsigned>(shares)), dim3(kThreads),
           kShared, work);
    launch.early(few_rows_finish_kernel<T>,
                 dim3(static_cast<unsigned>(ceil_div<int64_t>(p.inner, kOwnColumns))),
                 dim3(kThreads), 0, work);
}

}  // namespace

bool few_rows_backward_serves(const FewRowsGradient& p) {
    const auto packs = [](const void* at) { return aligned(at, 16); };
    return p.rows <= kRows && p.columns >= kLate && p.columns % 8 == 0 && p.inner % 8 == 0 &&
           p.x_stride % 8 == 0 && p.weight_stride % 8 == 0 &&
           std::max(p.columns, p.inner) <= int64_t{1} << 30 && packs(p.dy) && packs(p.pre) &&
           packs(p.x) && packs(p.weight);
}

void few_rows_backward(const Launch& launch, const FewRowsGradient& p) {
    with_native(p.dtype, "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (sizeof(T) == 2) run<T>(launch, p);
    });
}

}  // namespace fusewright::cuda
