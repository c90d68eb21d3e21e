// What follows a product on Hopper: bias and activation, in a loop over rows. CUTLASS's own
// epilogue works on the accumulators where they lie, in registers, which no loop can index: for
// every element of a tile code of its own, 200 KB in all, and at small products fetching code takes
// longer than the product. So each warp lays its sums down in shared memory first, 16 rows at a
// time, and code for one row serves all; that the rows leave as whole lines comes with it.
#pragma once

#include <cutlass/epilogue/thread/linear_combination.h>

#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/epilogue/dispatch_policy.hpp>

#include "element.cuh"
#include "linear_act/fast_activation.cuh"
#include "linear_act/product.h"

namespace fusewright::cuda {

// For results of type T, which CUTLASS knows under the name Element.
template <class T, class Element, int columns, int warps>
struct RowEpilogue {
    using EpilogueSchedule = cutlass::epilogue::NoSmemWarpSpecialized;
    using DispatchPolicy = EpilogueSchedule;
    using ElementAccumulator = float;
    using ElementC = void;
    using ElementD = Element;
    using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
    using StrideD = StrideC;
    using ThreadEpilogueOp = cutlass::epilogue::thread::LinearCombination<Element, 8>;  // unused

    static constexpr int kRows = 16, kPack = 8;
    static constexpr int kPitch = columns + 8;  // a warp's stores of pairs meet no bank twice
    static constexpr int kLanes = columns / kPack, kStep = 32 / kLanes;  // of a row, rows at once
    static constexpr int kAtOnce = 2;                                    // packs of a thread
    static_assert(32 % kLanes == 0 && kRows % (kAtOnce * kStep) == 0);

    struct SharedStorage {
        alignas(16) float sums[warps][kRows][kPitch];
    };

    struct Arguments {
        T* y = nullptr;
        T* pre = nullptr;
        const T* bias = nullptr;
        Activation activation = Activation::none;
    };
    using Params = Arguments;

    template <class Shape>
    static Params to_underlying_arguments(const Shape&, const Arguments& args, void*) {
        return args;
    }
    template <class Shape>
    static size_t get_workspace_size(const Shape&, const Arguments&) {
        return 0;
    }
    template <class Shape>
    static cutlass::Status initialize_workspace(const Shape&, const Arguments&, void*, cudaStream_t,
                                                cutlass::CudaHostAdapter* = nullptr) {
        return cutlass::Status::kSuccess;
    }
    template <class Shape>
    static bool can_implement(const Shape&, const Arguments&) {
        return true;
    }

    CUTLASS_HOST_DEVICE explicit RowEpilogue(const Params& p) : params(p) {}

    // The sums of one warpgroup: in instruction m, of 64 rows, a warp holds 16, and of those a
    // thread the rows lane / 4 and lane / 4 + 8, in each two neighbours of every eight columns.
    template <class Shape, class Tile, class Coord, class Sums, class Mma, class Residue>
    CUTLASS_DEVICE void operator()(const Shape& shape, const Tile&, const Coord& coord,
                                   const Sums& sums, const Mma&, const Residue&, int thread,
                                   char* shared) const {
        using namespace cute;
        static_assert(size<1>(Tile{}) == columns && size<2>(typename Sums::layout_type{}) == 1);
        const int warp = thread / 32, lane = thread % 32;
        float (&staged)[kRows][kPitch] = reinterpret_cast<SharedStorage*>(shared)->sums[warp];
        const int first_row = get<0>(coord) * size<0>(Tile{}) + kRows * warp;
        const int at = kPack * (lane % kLanes), column = get<1>(coord) * columns + at;
        const bool inside = column < get<1>(shape);
        Pack<T, kPack> bias{};
        if (params.bias != nullptr && inside) {
            bias = *reinterpret_cast<const Pack<T, kPack>*>(params.bias + column);
        }
#pragma unroll 1
        for (int m = 0; m < size<1>(sums); ++m) {
            __syncwarp();
            CUTLASS_PRAGMA_UNROLL
            for (int known = 0; known < size<1>(sums); ++known) {
                if (known == m) stage(staged, sums(_, known, 0), lane);
            }
            __syncwarp();
            const int row = first_row + 4 * kRows * m, rows = inside ? get<0>(shape) - row : 0;
#pragma unroll 1
            for (int r = lane / kLanes; r < kRows; r += kAtOnce * kStep) {
                finish(&staged[r][at], flipped(lane % kLanes), bias,
                       int64_t{row + r} * get<1>(shape) + column, int64_t{kStep} * get<1>(shape),
                       rows - r);
            }
        }
    }

  private:
    // Of every second four packs the halves are swapped, so that eight threads that read the same
    // half of theirs meet all banks.
    CUTLASS_HOST_DEVICE static constexpr int flipped(int pack) { return pack / 4 % 2; }

    template <class Sums>
    CUTLASS_DEVICE static void stage(float (&staged)[kRows][kPitch], const Sums& sums, int lane) {
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < columns / 8; ++i) {
            CUTLASS_PRAGMA_UNROLL
            for (int half = 0; half < 2; ++half) {
                float* to = &staged[lane / 4 + 8 * half]
                                   [8 * i + 4 * (lane / 2 % 2 ^ flipped(i)) + 2 * (lane % 2)];
                *reinterpret_cast<float2*>(to) =
                    make_float2(sums(cute::make_coord(cute::make_coord(0, half, i))),
                                sums(cute::make_coord(cute::make_coord(1, half, i))));
            }
        }
    }

    // kAtOnce packs, kStep rows apart, of which those in the first `rows` rows exist.
    CUTLASS_DEVICE void finish(const float* sums, int flip, const Pack<T, kPack>& bias, int64_t at,
                               int64_t step, int rows) const {
        float values[kAtOnce][kPack];
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            const auto* from = reinterpret_cast<const float4*>(sums + i * kStep * kPitch);
            *reinterpret_cast<float4*>(values[i]) = from[flip];
            *reinterpret_cast<float4*>(values[i] + 4) = from[1 - flip];
            CUTLASS_PRAGMA_UNROLL
            for (int j = 0; j < kPack; ++j) values[i][j] += to_acc(bias[j]);
        }
        if (params.pre != nullptr) store(params.pre + at, values, step, rows);
        dispatch(params.activation, [&](auto act) CUTLASS_LAMBDA_FUNC_INLINE {
            CUTLASS_PRAGMA_UNROLL
            for (int i = 0; i < kAtOnce; ++i) fast_activate_all<act.value>(values[i]);
        });
        store(params.y + at, values, step, rows);
    }

    CUTLASS_DEVICE static void store(T* to, const float (&values)[kAtOnce][kPack], int64_t step,
                                     int rows) {
        CUTLASS_PRAGMA_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            if (i * kStep >= rows) break;
            Pack<T, kPack> rounded;
            CUTLASS_PRAGMA_UNROLL
            for (int j = 0; j < kPack; ++j) rounded[j] = from_acc<T>(values[i][j]);
            *reinterpret_cast<Pack<T, kPack>*>(to + i * step) = rounded;
        }
    }

    Params params;
};

}  // namespace fusewright::cuda
