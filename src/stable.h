// Small helpers around torch's stable tensors, for the kernels of every backend.
//
// They stand in an anonymous namespace: a file that is compiled for several instruction sets must
// not share inline functions between those builds.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "check.h"

namespace fusewright {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What stands for a gradient that nobody needs, or for an output that this call does not have.
inline Tensor none_like(const Tensor& x) {
    const int64_t size = 0, stride = 1;
    int32_t dtype, device_type, device_index;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index));
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(1, &size, &stride, dtype, device_type, device_index, &handle));
    return Tensor(handle);
}

// The tensor itself where it is contiguous: asking first is cheaper than torch's boxed call.
inline Tensor as_contiguous(const Tensor& t) {
    return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

inline bool present(const std::optional<Tensor>& t) { return t.has_value() && t->defined(); }

inline std::optional<Tensor> as_contiguous(const std::optional<Tensor>& t) {
    return present(t) ? std::optional(as_contiguous(*t)) : std::nullopt;
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
    std::vector<int64_t> shape(t.dim());
    for (int64_t d = 0; d < t.dim(); ++d) shape[d] = t.size(d);
    return shape;
}

// `[op] grad_y.size(1) is 4, must be 6`, unless the tensor has that shape. Where strides are
// followed the number of elements is not enough: a transposed tensor reaches further than its shape
// says.
inline void check_shape(const Tensor& t, torch::headeronly::IntHeaderOnlyArrayRef shape,
                        const char* op, const char* name) {
    const auto sizes = t.sizes();
    FW_CHECK(sizes.size() == shape.size(), op, name, ".dim() is ", sizes.size(), ", must be ",
             shape.size());
    for (size_t d = 0; d < shape.size(); ++d) {
        FW_CHECK(sizes[d] == shape[d], op, name, ".size(", d, ") is ", sizes[d], ", must be ",
                 shape[d]);
    }
}
inline void check_shape(const std::optional<Tensor>& t,
                        torch::headeronly::IntHeaderOnlyArrayRef shape, const char* op,
                        const char* name) {
    if (present(t)) check_shape(*t, shape, op, name);
}

inline void check_dtype(const Tensor& t, ScalarType dtype, const char* op, const char* name) {
    FW_CHECK(t.scalar_type() == dtype, op, name, ".dtype is ",
             torch::headeronly::toString(t.scalar_type()), ", must be ",
             torch::headeronly::toString(dtype));
}

inline void check_rank(const Tensor& t, int64_t rank, const char* op, const char* name) {
    FW_CHECK(t.dim() == rank, op, name, ".dim() is ", t.dim(), ", must be ", rank);
}

// Parameters of another dtype than the data, as under autocast, are converted.
inline Tensor in_dtype(const Tensor& t, ScalarType dtype) {
    return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}
inline std::optional<Tensor> in_dtype(const std::optional<Tensor>& t, ScalarType dtype) {
    return present(t) ? std::optional(in_dtype(*t, dtype)) : std::nullopt;
}

// What sums over `dtype` are kept in.
inline ScalarType acc_dtype(ScalarType dtype) {
    return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Fresh tensors are made through the C functions that dispatch directly: the calls of
// torch/csrc/stable/ops.h box their arguments, which costs more than small kernels do.

inline Tensor fresh(const Tensor& x, torch::headeronly::IntHeaderOnlyArrayRef shape,
                    std::optional<ScalarType> dtype = std::nullopt) {
    int32_t code = 0;
    if (dtype.has_value()) {
        code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(*dtype));
    }
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(
        x.get(), shape.data(), static_cast<int64_t>(shape.size()),
        dtype.has_value() ? &code : nullptr, nullptr, nullptr, -1, nullptr, &handle));
    return Tensor(handle);
}

// With the strides of x, as torch.empty_like.
inline Tensor fresh_like(const Tensor& x) {
    return x.is_contiguous() ? fresh(x, x.sizes()) : torch::stable::empty_like(x);
}

}  // namespace
}  // namespace fusewright
