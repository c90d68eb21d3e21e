// Products on every architecture: sm_80's tensor cores through CUTLASS's threadblock kernels. One
// kernel reads in packs of 16 bytes, the other element by element, for any alignment.
#include <cutlass/cutlass.h>
#include <cutlass/epilogue/threadblock/epilogue_with_broadcast.h>
#include <cutlass/gemm/device/gemm_universal_with_broadcast.h>

#include "linear_act/epilogue.h"

namespace fusewright::cuda {
namespace {

using cutlass::layout::ColumnMajor;
using cutlass::layout::RowMajor;

// z = act(t) and t = accumulator + bias, on `pack` elements.
template <class T, int pack>
struct BiasActivation {
    using ElementOutput = T;
    using ElementZ = T;
    using ElementT = T;
    using ElementVector = T;
    using ElementAccumulator = float;
    using ElementCompute = float;
    using Rounded = cutlass::Array<T, pack>;
    using Exact = cutlass::Array<float, pack>;
    static constexpr int kCount = pack;
    static constexpr bool kStoreZ = true, kStoreT = true, kIsSingleSource = true, kIsHeavy = true;

    using Params = ActivationChoice;
    ActivationChoice choice;

    CUTLASS_HOST_DEVICE explicit BiasActivation(const Params& params) : choice(params) {}

    CUTLASS_HOST_DEVICE bool is_source_needed() const { return false; }
    CUTLASS_HOST_DEVICE void set_k_partition(int, int) {}

    CUTLASS_DEVICE void operator()(Rounded& z, Rounded& t, const Exact& sum,
                                   const Exact& bias) const {
        const Exact pre = cutlass::plus<Exact>{}(sum, bias);
        const cutlass::NumericArrayConverter<T, float, pack> round;
        t = round(pre);
        z = round(ChosenActivation<Exact>{}(pre, choice));
    }

    // CUTLASS compiles this call as well, for a matrix to add, which there never is.
    CUTLASS_DEVICE void operator()(Rounded& z, Rounded& t, const Exact& sum, const Rounded&,
                                   const Exact& bias) const {
        (*this)(z, t, sum, bias);
    }
};

template <class T, int pack, int stages>
void run(const Launch& launch, const Product& p) {
    using cutlass::gemm::GemmShape;
    using Operation = BiasActivation<T, pack>;
    using Gemm = cutlass::gemm::device::GemmUniversalWithBroadcast<
        T, RowMajor, T, ColumnMajor, T, RowMajor, float, cutlass::arch::OpClassTensorOp,
        cutlass::arch::Sm80, GemmShape<128, 128, 32>, GemmShape<64, 64, 32>, GemmShape<16, 8, 16>,
        Operation, cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<8>, stages, pack,
        pack>;
    const cutlass::gemm::GemmCoord shape(static_cast<int>(p.rows), static_cast<int>(p.columns),
                                         static_cast<int>(p.inner));
    const typename Gemm::Arguments args(
        cutlass::gemm::GemmUniversalMode::kGemm, shape, 1, ActivationChoice{p.activation}, p.x,
        p.weight, nullptr, p.y, const_cast<void*>(p.bias), p.pre, 0, 0, 0, 0, 0, 0, p.x_stride,
        p.weight_stride, p.columns, p.columns, 0, p.columns);
    Gemm gemm;
    check(gemm.initialize(args, nullptr, launch.stream()));
    check(gemm.run(launch.stream()));
}

}  // namespace

void product_sm80(const Launch& launch, const Product& p) {
    with_cutlass_type(p.dtype, [&](auto type) {
        using T = decltype(type);
        if (packs(p)) {
            run<T, 8, 4>(launch, p);
        } else {
            run<T, 1, 2>(launch, p);
        }
    });
}

}  // namespace fusewright::cuda
