// Products on Hopper: CUTLASS's warp-specialised collectives, compiled for sm_90a alone.
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "linear_act/epilogue.h"

namespace fusewright::cuda {
namespace {

using namespace cute;
using cutlass::layout::ColumnMajor;
using cutlass::layout::RowMajor;

// Large products: two warpgroups share a tile, pairs of blocks share what they read of the weight.
struct Large {
    using Tile = Shape<_128, _256, _64>;
    using Cluster = Shape<_2, _1, _1>;
    using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
    using Epilogue = cutlass::epilogue::TmaWarpSpecializedCooperative;
};

// Small products: each warpgroup has a tile, and one stores while the other multiplies.
struct Small {
    using Tile = Shape<_128, _128, _64>;
    using Cluster = Shape<_2, _1, _1>;
    using Mainloop = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
    using Epilogue = cutlass::epilogue::TmaWarpSpecialized;
};

template <class T, class Config>
struct Kernel {
    static constexpr int kAlign = 8;
    using Fusion = cutlass::epilogue::fusion::LinCombPerColBiasEltActAux<RowMajor, ChosenActivation,
                                                                         T, float, T, T, T>;
    using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, typename Config::Tile,
        typename Config::Cluster, cutlass::epilogue::collective::EpilogueTileAuto, float, float,
        void, RowMajor, kAlign, T, RowMajor, kAlign, typename Config::Epilogue,
        Fusion>::CollectiveOp;
    using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, T, RowMajor, kAlign, T, ColumnMajor,
        kAlign, float, typename Config::Tile, typename Config::Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
            sizeof(typename Epilogue::SharedStorage))>,
        typename Config::Mainloop>::CollectiveOp;
    using Gemm = cutlass::gemm::device::GemmUniversalAdapter<
        cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>>;

    static void run(const Launch& launch, const Product& p) {
        using GemmKernel = typename Gemm::GemmKernel;
        const typename GemmKernel::StrideD dense{p.columns, _1{}, _0{}};
        typename Gemm::Arguments args{};
        args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
        args.problem_shape = {static_cast<int>(p.rows), static_cast<int>(p.columns),
                              static_cast<int>(p.inner), 1};
        args.mainloop.ptr_A = static_cast<const T*>(p.x);
        args.mainloop.dA = {p.x_stride, _1{}, _0{}};
        args.mainloop.ptr_B = static_cast<const T*>(p.weight);
        args.mainloop.dB = {p.weight_stride, _1{}, _0{}};
        args.epilogue.ptr_D = static_cast<T*>(p.y);
        args.epilogue.dD = dense;
        args.epilogue.thread.bias_ptr = static_cast<const T*>(p.bias);
        args.epilogue.thread.activation.value = p.activation;
        args.epilogue.thread.aux_ptr = static_cast<T*>(p.pre);
        args.epilogue.thread.dAux = dense;
        args.hw_info.sm_count = launch.processors();
        Gemm gemm;
        check(gemm.can_implement(args));
        check(gemm.initialize(args, nullptr, launch.stream()));
        check(gemm.run(launch.stream()));
    }
};

}  // namespace

bool product_sm90_serves(const Launch& launch, const Product& p) {
    return launch.attribute(cudaDevAttrComputeCapabilityMajor) == 9 && packs(p) &&
           p.x_stride >= p.inner && p.weight_stride >= p.inner;
}

void product_sm90(const Launch& launch, const Product& p) {
    const int64_t tiles = ceil_div<int64_t>(p.rows, 128) * ceil_div<int64_t>(p.columns, 256);
    with_cutlass_type(p.dtype, [&](auto type) {
        using T = decltype(type);
        if (tiles >= 3 * launch.processors()) {
            Kernel<T, Large>::run(launch, p);
        } else {
            Kernel<T, Small>::run(launch, p);
        }
    });
}

}  // namespace fusewright::cuda
