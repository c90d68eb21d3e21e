// What the kernels are told of a tensor's dtype.
#pragma once

#include <string>

#include "args.h"
#include "stable.h"

namespace fusewright::metal {

// The end of a kernel's name: one of the three types that tensors on this device compute in.
inline std::string suffix(const Tensor& t, const char* op) {
    switch (t.scalar_type()) {
        case ScalarType::Float:
            return "_float";
        case ScalarType::Half:
            return "_half";
        case ScalarType::BFloat16:
            return "_bfloat";
        default:
            break;
    }
    FW_CHECK(false, op, "dtype is ", torch::headeronly::toString(t.scalar_type()),
             ", must be float32, bfloat16 or float16");
}

// FW_FLOAT, FW_HALF or FW_BFLOAT; FW_NONE where there is no tensor.
inline int32_t dtype_of(const std::optional<Tensor>& t, const char* op) {
    if (!present(t)) return FW_NONE;
    const std::string name = suffix(*t, op);
    return name == "_float" ? FW_FLOAT : name == "_half" ? FW_HALF : FW_BFLOAT;
}

// FW_INT or FW_LONG; FW_NONE where there is no tensor.
inline int32_t integer_dtype_of(const std::optional<Tensor>& t, const char* op, const char* name) {
    if (!present(t)) return FW_NONE;
    const ScalarType dtype = t->scalar_type();
    FW_CHECK(dtype == ScalarType::Int || dtype == ScalarType::Long, op, name, ".dtype is ",
             torch::headeronly::toString(dtype), ", must be int32 or int64");
    return dtype == ScalarType::Int ? FW_INT : FW_LONG;
}

// Sets the strides of the last dimensions of a tensor, or leaves zeros where there is none.
template <size_t n>
void set_strides(int64_t (&to)[n], const std::optional<Tensor>& t) {
    if (!present(t)) return;
    for (size_t d = 0; d < n; ++d) to[d] = t->stride(t->dim() - static_cast<int64_t>(n - d));
}

// Gradients of parameters are written dense: in place, or to memory of their own and then copied.
inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : fresh(t, t.sizes()); }

inline void copy_unless_same(Tensor to, const Tensor& from) {
    if (to.get() != from.get()) torch::stable::copy_(to, from);
}

}  // namespace fusewright::metal
