// Products on Hopper: CUTLASS's warp-specialised collectives, compiled for sm_90a alone.
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>

#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

#include "linear_act/epilogue.h"
#include "linear_act/epilogue.sm90.h"

namespace fusewright::cuda {
namespace {

using namespace cute;
using cutlass::layout::ColumnMajor;
using cutlass::layout::RowMajor;

// Two warpgroups have a tile each, one finishes its own while the other multiplies; pairs of blocks
// share what they read of the weight.
template <class T>
struct Kernel {
    using Element =
        std::conditional_t<std::is_same_v<T, __half>, cutlass::half_t, cutlass::bfloat16_t>;
    using Tile = Shape<_128, _128, _64>;
    using Cluster = Shape<_2, _1, _1>;
    using Epilogue = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
        RowEpilogue<T, Element, 128, 4>>;
    using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
        cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, RowMajor, 8, Element,
        ColumnMajor, 8, float, Tile, Cluster,
        cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
            sizeof(typename Epilogue::SharedStorage))>,
        cutlass::gemm::KernelTmaWarpSpecializedPingpong>::CollectiveOp;
    using Gemm = cutlass::gemm::device::GemmUniversalAdapter<
        cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue>>;

    static void run(const Launch& launch, const Product& p) {
        typename Gemm::Arguments args{};
        args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
        args.problem_shape = {static_cast<int>(p.rows), static_cast<int>(p.columns),
                              static_cast<int>(p.inner), 1};
        args.mainloop.ptr_A = static_cast<const Element*>(p.x);
        args.mainloop.dA = {p.x_stride, _1{}, _0{}};
        args.mainloop.ptr_B = static_cast<const Element*>(p.weight);
        args.mainloop.dB = {p.weight_stride, _1{}, _0{}};
        args.epilogue = {static_cast<T*>(p.y), static_cast<T*>(p.pre),
                         static_cast<const T*>(p.bias), p.activation};
        args.hw_info.sm_count = launch.processors();
        Gemm gemm;
        check(gemm.can_implement(args));
        check(gemm.initialize(args, nullptr, launch.stream()));
        check(gemm.run(launch.stream()));
    }
};

}  // namespace

// Rows that overlap are beyond TMA.
bool product_sm90_serves(const Launch& launch, const Product& p) {
    return launch.attribute(cudaDevAttrComputeCapabilityMajor) == 9 && packs(p) &&
           p.x_stride >= p.inner && p.weight_stride >= p.inner;
}

// With fewer tiles than multiprocessors cuBLAS, which splits sums and has smaller tiles, is faster.
bool product_sm90_pays(const Launch& launch, const Product& p) {
    return product_tiles(p) >= launch.processors();
}

void product_sm90(const Launch& launch, const Product& p) {
    if (p.dtype == ScalarType::Half) return Kernel<__half>::run(launch, p);
    STD_TORCH_CHECK(p.dtype == ScalarType::BFloat16, "[linear_act] dtype must be a 16-bit type");
    Kernel<__nv_bfloat16>::run(launch, p);
}

}  // namespace fusewright::cuda
