// From a tensor's dtype at run time to a C++ type at compile time.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "check.h"

namespace fusewright {

template <class T>
struct Type {
    using type = T;
};

// Call `f(Type<T>{})` with the C++ type of `dtype`, one of fp32, fp64, bf16 and fp16.
template <class F>
auto with_dtype(torch::headeronly::ScalarType dtype, const char* op, F&& f) {
    using torch::headeronly::ScalarType;
    switch (dtype) {
        case ScalarType::Float:
            return f(Type<float>{});
        case ScalarType::Double:
            return f(Type<double>{});
        case ScalarType::BFloat16:
            return f(Type<torch::headeronly::BFloat16>{});
        case ScalarType::Half:
            return f(Type<torch::headeronly::Half>{});
        default:
            break;
    }
    FW_CHECK(false, op, "dtype is ", torch::headeronly::toString(dtype),
             ", must be float32, float64, bfloat16 or float16");
    return f(Type<float>{});
}

}  // namespace fusewright
