// One or more decoding steps of the causal convolution, on a state that is changed in place.
// Threads share out the channels and go through the batch in its order, so that two entries with
// the same state index see each other's writes as if they ran one after the other.

#include <torch/csrc/stable/ops.h>

#include "cpu/activation.h"
#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
namespace {

constexpr const char* kOp = "causal_conv1d_update";

std::vector<int64_t> integers(const std::optional<Tensor>& t, int64_t n, const char* name) {
    if (!present(t)) return {};
    check_shape(t, {n}, kOp, name);
    const Tensor dense = as_contiguous(*t);
    std::vector<int64_t> values(n);
    const bool wide = dense.scalar_type() == torch::headeronly::ScalarType::Long;
    for (int64_t i = 0; i < n; ++i) {
        values[i] = wide ? dense.const_data_ptr<int64_t>()[i] : dense.const_data_ptr<int32_t>()[i];
    }
    return values;
}

template <class A>
A silu_of(A x) {
    return activate<Activation::silu>(Vec<A>(x))[0];
}

}  // namespace
}  // namespace fusewright::cpu::FW_ISA

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

Tensor k::causal_conv1d_update(const Tensor& x, const Tensor& conv_state, const Tensor& weight,
                               const std::optional<Tensor>& bias,
                               const std::optional<Tensor>& cache_seqlens,
                               const std::optional<Tensor>& conv_state_indices, bool use_silu) {
    check_rank(x, 3, kOp, "x");
    check_rank(conv_state, 3, kOp, "conv_state");
    check_filter(weight, bias, x.size(1), kOp);
    const int64_t batch = x.size(0), channels = x.size(1), steps = x.size(2);
    const int64_t width = weight.size(1), history = width - 1;
    const int64_t states = conv_state.size(0), length = conv_state.size(2);
    const int64_t least = std::max<int64_t>(history, 1);
    check_shape(conv_state, {states, channels, std::max(length, least)}, kOp, "conv_state");
    FW_CHECK(present(conv_state_indices) || states == batch, kOp, "conv_state has ", states,
             " states, must have ", batch, " as x without conv_state_indices");
    const std::vector<int64_t> seqlens = integers(cache_seqlens, batch, "cache_seqlens");
    const std::vector<int64_t> indices = integers(conv_state_indices, batch, "conv_state_indices");
    for (const int64_t index : indices) {
        FW_CHECK(index < states, kOp, "conv_state_indices has ", index, ", must be below ", states);
    }
    Tensor y = fresh_like(x);
    with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const std::vector<A> w = as_acc<A>(weight, kOp);
        const std::vector<A> b = as_acc_or_zeros<A>(bias, channels, kOp);
        const T* in = x.const_data_ptr<T>();
        T* out = y.mutable_data_ptr<T>();
        with_dtype(conv_state.scalar_type(), kOp, [&](auto state_type) {
            using S = typename decltype(state_type)::type;
            S* all = conv_state.mutable_data_ptr<S>();
            const int64_t step = conv_state.stride(2);
            const int64_t grain = std::max<int64_t>(1, 4096 / (batch * steps + 1));
            torch::stable::parallel_for(0, channels, grain, [&](int64_t begin, int64_t end) {
                std::vector<A> window(history + steps);  // the history, then x
                for (int64_t i = 0; i < batch; ++i) {
                    const int64_t index = indices.empty() ? i : indices[i];
                    for (int64_t d = begin; d < end; ++d) {
                        T* to = out + i * y.stride(0) + d * y.stride(1);
                        if (index < 0) {
                            for (int64_t t = 0; t < steps; ++t) {
                                to[t * y.stride(2)] = from_acc<T>(A(0));
                            }
                            continue;
                        }
                        S* state = all + index * conv_state.stride(0) + d * conv_state.stride(1);
                        const bool circular = !seqlens.empty();
                        const int64_t start =
                            circular ? (seqlens[i] % length + length) % length : length;
                        for (int64_t t = 0; t < history; ++t) {
                            const int64_t at = (start - history + t + length) % length;
                            window[t] = static_cast<A>(to_acc(state[at * step]));
                        }
                        for (int64_t t = 0; t < steps; ++t) {
                            window[history + t] =
                                to_acc(in[i * x.stride(0) + d * x.stride(1) + t * x.stride(2)]);
                        }
                        for (int64_t t = 0; t < steps; ++t) {
                            A sum = b[d];
                            for (int64_t j = 0; j < width; ++j) {
                                sum += w[d * width + j] * window[t + j];
                            }
                            to[t * y.stride(2)] = from_acc<T>(use_silu ? silu_of(sum) : sum);
                        }
                        const auto write = [&](int64_t at, int64_t t) {
                            state[at * step] =
                                from_acc<S>(static_cast<acc_t<S>>(window[history + t]));
                        };
                        if (circular) {
                            for (int64_t t = 0; t < steps; ++t) write((start + t) % length, t);
                            continue;
                        }
                        for (int64_t at = 0; at + steps < length; ++at) {
                            state[at * step] = state[(at + steps) * step];
                        }
                        for (int64_t t = std::max<int64_t>(0, steps - length); t < steps; ++t) {
                            write(length - steps + t, t);
                        }
                    }
                }
            });
        });
    });
    return y;
}
