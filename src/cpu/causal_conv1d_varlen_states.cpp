// The last inputs of every sequence of a packed batch, and the scatter that is their gradient.

#include <torch/csrc/stable/ops.h>

#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
namespace {

constexpr const char* kOp = "causal_conv1d_varlen_states";

std::vector<int64_t> bounds_of(const Tensor& cu_seqlens, int64_t total) {
    check_rank(cu_seqlens, 1, kOp, "cu_seqlens");
    const Tensor dense = as_contiguous(cu_seqlens);
    const bool wide = dense.scalar_type() == torch::headeronly::ScalarType::Long;
    std::vector<int64_t> bounds(dense.numel());
    FW_CHECK(!bounds.empty(), kOp, "cu_seqlens.numel() is 0, must be at least 1");
    int64_t before = 0;
    for (size_t i = 0; i < bounds.size(); ++i) {
        bounds[i] = wide ? dense.const_data_ptr<int64_t>()[i] : dense.const_data_ptr<int32_t>()[i];
        FW_CHECK(before <= bounds[i] && bounds[i] <= total, kOp, "cu_seqlens[", i, "] is ",
                 bounds[i], ", must be from ", before, " to ", total);
        before = bounds[i];
    }
    return bounds;
}

// Calls f(row of x, sequence, place in its state) for every input that a state holds.
template <class F>
void for_each_kept(const std::vector<int64_t>& bounds, int64_t state_len, F&& f) {
    for (size_t i = 0; i + 1 < bounds.size(); ++i) {
        const int64_t kept = std::min(state_len, bounds[i + 1] - bounds[i]);
        for (int64_t t = 0; t < kept; ++t) {
            f(bounds[i + 1] - kept + t, static_cast<int64_t>(i), state_len - kept + t);
        }
    }
}

Tensor zeros(Tensor t) { return torch::stable::zero_(t); }

}  // namespace
}  // namespace fusewright::cpu::FW_ISA

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

Tensor k::causal_conv1d_varlen_states(const Tensor& x, const Tensor& cu_seqlens,
                                      int64_t state_len) {
    check_rank(x, 2, kOp, "x");
    FW_CHECK(state_len >= 0, kOp, "state_len is ", state_len, ", must be >= 0");
    const std::vector<int64_t> bounds = bounds_of(cu_seqlens, x.size(0));
    const int64_t channels = x.size(1);
    Tensor y = zeros(fresh(x, {static_cast<int64_t>(bounds.size()) - 1, channels, state_len}));
    fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        const T* in = x.const_data_ptr<T>();
        T* out = y.mutable_data_ptr<T>();
        for_each_kept(bounds, state_len, [&](int64_t row, int64_t sequence, int64_t place) {
            for (int64_t d = 0; d < channels; ++d) {
                out[(sequence * channels + d) * state_len + place] =
                    in[row * x.stride(0) + d * x.stride(1)];
            }
        });
    });
    return y;
}

Tensor k::causal_conv1d_varlen_states_backward(const Tensor& grad_y, const Tensor& x,
                                               const Tensor& cu_seqlens, int64_t state_len,
                                               int64_t) {
    check_rank(x, 2, kOp, "x");
    const std::vector<int64_t> bounds = bounds_of(cu_seqlens, x.size(0));
    const int64_t channels = x.size(1);
    check_shape(grad_y, {static_cast<int64_t>(bounds.size()) - 1, channels, state_len}, kOp,
                "grad_y");
    check_dtype(grad_y, x.scalar_type(), kOp, "grad_y");
    const Tensor grad = as_contiguous(grad_y);
    Tensor dx = zeros(fresh_like(x));
    fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        const T* in = grad.const_data_ptr<T>();
        T* out = dx.mutable_data_ptr<T>();
        for_each_kept(bounds, state_len, [&](int64_t row, int64_t sequence, int64_t place) {
            for (int64_t d = 0; d < channels; ++d) {
                out[row * dx.stride(0) + d * dx.stride(1)] =
                    in[(sequence * channels + d) * state_len + place];
            }
        });
    });
    return dx;
}
