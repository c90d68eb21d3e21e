// Small tensors as accumulators and back.
#pragma once

#include "cpu/element.h"
#include "dtype.h"
#include "stable.h"

namespace fusewright::cpu::FW_ISA {

// The elements of a small tensor, in row-major order, as accumulators. Parameters may have another
// dtype than the data; converting them once keeps dtype pairs out of the kernels.
template <class A>
std::vector<A> as_acc(const Tensor& t, const char* op) {
    const Tensor dense = as_contiguous(t);
    std::vector<A> values;
    with_dtype(dense.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        const T* p = dense.const_data_ptr<T>();
        if constexpr (std::is_same_v<T, A>) {
            values.assign(p, p + dense.numel());
        } else {
            values.resize(dense.numel());
            for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<A>(to_acc(p[i]));
        }
    });
    return values;
}

// The filter and the bias of the causal convolutions.
inline void check_filter(const Tensor& weight, const std::optional<Tensor>& bias, int64_t channels,
                         const char* op) {
    check_rank(weight, 2, op, "weight");
    check_shape(weight, {channels, std::max<int64_t>(weight.size(1), 1)}, op, "weight");
    check_shape(bias, {channels}, op, "bias");
}

// As `as_acc`; zeros where the tensor is absent.
template <class A>
std::vector<A> as_acc_or_zeros(const std::optional<Tensor>& t, int64_t n, const char* op) {
    return present(t) ? as_acc<A>(*t, op) : std::vector<A>(n);
}

// Writes accumulators to a dense tensor of any dtype, rounding once.
template <class A>
void write_acc(const Tensor& t, const A* values, const char* op) {
    with_dtype(t.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        T* p = t.mutable_data_ptr<T>();
        for (int64_t i = 0, n = t.numel(); i < n; ++i) {
            p[i] = from_acc<T>(static_cast<acc_t<T>>(values[i]));
        }
    });
}

}  // namespace fusewright::cpu::FW_ISA
