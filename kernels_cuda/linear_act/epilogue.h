// The activation as CUTLASS's epilogues call it: chosen at run time, so that one kernel serves all,
// and outside the loop over a thread's elements, so that the choice costs nothing.
#pragma once

#include <cutlass/array.h>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include "linear_act/fast_activation.cuh"
#include "linear_act/product.h"

namespace fusewright::cuda {

struct ActivationChoice {
    Activation value = Activation::none;
};

// CUTLASS asks an instance on a scalar for the type of the arguments, one on an array for results.
template <class V>
struct ChosenActivation {
    using Arguments = ActivationChoice;
};

template <int N>
struct ChosenActivation<cutlass::Array<float, N>> {
    using Arguments = ActivationChoice;

    CUTLASS_DEVICE cutlass::Array<float, N> operator()(const cutlass::Array<float, N>& pre,
                                                       const Arguments& choice) const {
        cutlass::Array<float, N> y = pre;
        dispatch(choice.value, [&](auto act) CUTLASS_LAMBDA_FUNC_INLINE {
            CUTLASS_PRAGMA_UNROLL
            for (int i = 0; i < N; ++i) y[i] = fast_activate<act.value>(pre[i]);
        });
        return y;
    }
};

inline void check(cutlass::Status status) {
    STD_TORCH_CHECK(status == cutlass::Status::kSuccess,
                    "[linear_act] CUTLASS: ", cutlass::cutlassGetStatusString(status));
}

// Calls f with CUTLASS's type for the dtype.
template <class F>
void with_cutlass_type(ScalarType dtype, F&& f) {
    if (dtype == ScalarType::Half) {
        f(cutlass::half_t{});
    } else {
        STD_TORCH_CHECK(dtype == ScalarType::BFloat16, "[linear_act] dtype must be a 16-bit type");
        f(cutlass::bfloat16_t{});
    }
}

}  // namespace fusewright::cuda
