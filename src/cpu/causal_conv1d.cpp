// Causal depthwise 1D convolution. Rows of (batch, channel) when the length is contiguous, rows of
// channels when those are (channel-last); other strides are made contiguous first.

#include "cpu/causal_conv1d_channels.h"
#include "cpu/causal_conv1d_rows.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
namespace {

enum class Layout { rows, channels };

// The layout that a dense tensor has; nothing if neither dimension is the innermost.
std::optional<Layout> layout_of(const Tensor& t) {
    if (t.size(2) == 0) return Layout::rows;
    if (t.stride(1) == 1 && (t.size(2) <= 1 || t.stride(2) != 1)) return Layout::channels;
    if (t.size(2) <= 1 || t.stride(2) == 1) return Layout::rows;
    return t.size(1) <= 1 ? std::optional(Layout::channels) : std::nullopt;
}

bool has_layout(const Tensor& t, Layout layout) {
    const int64_t inner = layout == Layout::rows ? 2 : 1;
    return t.size(inner) <= 1 || t.stride(inner) == 1;
}

// `t` itself if it has the layout, else a copy with the strides of `like`.
Tensor in_layout(const Tensor& t, Layout layout, const Tensor& like) {
    if (has_layout(t, layout)) return t;
    Tensor copy = fresh_like(like);
    torch::stable::copy_(copy, t);
    return copy;
}

Tensor zeros_like(const Tensor& t) {
    Tensor zeros = fresh_like(t);
    return torch::stable::zero_(zeros);
}

template <class A, class T>
Tensor final_states_of(const Problem<A>& p, const Tensor& x) {
    const int64_t history = p.width - 1;
    Tensor result = fresh(x, {p.batch, p.channels, history});
    T* out = result.mutable_data_ptr<T>();
    const T* in = x.const_data_ptr<T>();
    for (int64_t b = 0; b < p.batch; ++b) {
        for (int64_t channel = 0; channel < p.channels; ++channel) {
            for (int64_t i = 0; i < history; ++i) {
                const int64_t t = p.length - history + i;
                const bool counts = counts_in_final_state(p, b, i);
                *out++ = !counts ? from_acc<T>(A(0))
                         : t < 0 ? from_acc<T>(p.state(b, channel)[t + history])
                                 : in[b * x.stride(0) + channel * x.stride(1) + t * x.stride(2)];
            }
        }
    }
    return result;
}

}  // namespace
}  // namespace fusewright::cpu::FW_ISA

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::causal_conv1d(const Tensor& x, const Tensor& weight,
                                            const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& seq_idx,
                                            const std::optional<Tensor>& initial_states, bool silu,
                                            bool return_final_states) {
    return fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Problem<A> p = problem_of<A>(x, weight, bias, seq_idx, initial_states, silu);
        Tensor y = fresh_like(x);
        const auto layout = layout_of(y);
        Tensor dense = layout ? y : fresh(x, {p.batch, p.channels, p.length});
        const Tensor in = in_layout(x, layout.value_or(Layout::rows), dense);
        if (layout.value_or(Layout::rows) == Layout::rows) {
            forward_rows<A, T>(p, in, dense);
        } else {
            forward_channels<A, T>(p, in, dense);
        }
        if (!layout) torch::stable::copy_(y, dense);
        return std::tuple(y, return_final_states ? final_states_of<A, T>(p, x) : none_like(x));
    });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> k::causal_conv1d_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_final_states,
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seq_idx, const std::optional<Tensor>& initial_states, bool silu,
    int64_t needs) {
    return fusewright::with_dtype(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Problem<A> p = problem_of<A>(x, weight, bias, seq_idx, initial_states, silu);
        const int64_t history = p.width - 1;
        check_shape(grad_y, x.sizes(), kOp, "grad_y");
        if (present(grad_y)) check_dtype(*grad_y, x.scalar_type(), kOp, "grad_y");
        check_shape(grad_final_states, {p.batch, p.channels, history}, kOp, "grad_final_states");
        Tensor dx = fresh_like(x);
        const auto layout = layout_of(dx);
        Tensor dense = layout ? dx : fresh(x, {p.batch, p.channels, p.length});
        const Layout chosen = layout.value_or(Layout::rows);
        const Tensor in = in_layout(x, chosen, dense);
        const Tensor grad = present(grad_y) ? in_layout(*grad_y, chosen, dense) : zeros_like(dense);
        const std::vector<A> dfinal =
            present(grad_final_states) ? as_acc<A>(*grad_final_states, kOp) : std::vector<A>();

        // Partial sums of the weight's and the bias's gradient, added up in a fixed order.
        std::vector<A> dstates(p.states.size());
        std::vector<double> total(p.channels * (p.width + 1));
        if (chosen == Layout::rows) {
            std::vector<A> sums(p.batch * p.channels * (p.width + 1));
            backward_rows<A, T>(p, in, grad, dfinal, dense, sums.data(), dstates.data());
            for (size_t i = 0; i < sums.size(); ++i) total[i % total.size()] += sums[i];
        } else {
            const int64_t chunks = (p.length + backward_chunk(p) - 1) / backward_chunk(p);
            std::vector<A> sums(p.batch * chunks * total.size()), last(dstates.size());
            const ChannelLast<A> c(p);
            backward_channels<A, T>(p, c, in, grad, dfinal, dense, sums.data(), last.data());
            for (int64_t part = 0; part < p.batch * chunks; ++part) {
                for (int64_t k = 0; k <= p.width; ++k) {
                    for (int64_t channel = 0; channel < p.channels; ++channel) {
                        total[channel * (p.width + 1) + k] +=
                            sums[(part * (p.width + 1) + k) * p.channels + channel];
                    }
                }
            }
            for (int64_t i = 0; i < static_cast<int64_t>(last.size()); ++i) {
                const int64_t channel = i % p.channels, at = i / p.channels;
                const int64_t b = at / history, place = at % history;
                dstates[(b * p.channels + channel) * history + place] = last[i];
            }
        }
        if (!layout) torch::stable::copy_(dx, dense);

        std::vector<double> dweight(p.weight.size()), dbias(p.channels);
        for (int64_t channel = 0; channel < p.channels; ++channel) {
            const double* sum = &total[channel * (p.width + 1)];
            std::copy_n(sum, p.width, &dweight[channel * p.width]);
            dbias[channel] = sum[p.width];
        }
        const auto result = [&](int bit, const std::optional<Tensor>& like, const auto& values) {
            if (!(needs >> bit & 1) || !present(like)) return none_like(x);
            Tensor dense_result = as_contiguous(fresh_like(*like));
            write_acc(dense_result, values.data(), kOp);
            Tensor strided = fresh_like(*like);
            torch::stable::copy_(strided, dense_result);
            return strided;
        };
        return std::tuple(needs & 1 ? dx : none_like(x), result(1, weight, dweight),
                          result(2, bias, dbias), result(3, initial_states, dstates));
    });
}
