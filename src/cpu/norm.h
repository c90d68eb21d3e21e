// The rows of layer_norm and rms_norm: loaded once as accumulators, normalised in the cache,
// stored once. `centred` is layer_norm's subtraction of the mean.
#pragma once

#include <memory>

#include "cpu/activation.h"
#include "cpu/alloc.h"
#include "cpu/row.h"
#include "cpu/tensor.h"
#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

// A tensor as rows of `columns` elements: the trailing dimensions collapsed, the others counted.
struct Rows {
    Tensor tensor;  // keeps a copy alive where the trailing dimensions don't collapse
    int64_t rows = 1, columns = 1, step = 1;
    std::vector<int64_t> sizes, strides;  // of the leading dimensions

    Rows(const Tensor& t, int64_t norm_dims) : tensor(t) {
        const int64_t lead = t.dim() - norm_dims;
        int64_t expected = -1;
        for (int64_t d = t.dim() - 1; d >= lead; --d) {
            columns *= t.size(d);
            if (t.size(d) == 1) continue;
            if (expected < 0) {
                step = t.stride(d);
                expected = step * t.size(d);
            } else if (t.stride(d) == expected) {
                expected *= t.size(d);
            } else {
                tensor = as_contiguous(t);
                step = 1;
                break;
            }
        }
        columns = 1;
        for (int64_t d = lead; d < t.dim(); ++d) columns *= t.size(d);
        for (int64_t d = 0; d < lead; ++d) {
            rows *= t.size(d);
            sizes.push_back(t.size(d));
            strides.push_back(tensor.stride(d));
        }
    }

    int64_t offset(int64_t row) const {
        int64_t at = 0;
        for (size_t d = sizes.size(); d-- > 0;) {
            at += row % sizes[d] * strides[d];
            row /= sizes[d];
        }
        return at;
    }
};

// Calls f(i, lanes) for every vector of a row; `lanes` is a constant for the full ones, an int for
// the last.
template <class A, class F>
FW_INLINE void for_lanes(int64_t n, F&& f) {
    constexpr int lanes = Vec<A>::size;
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(i, std::integral_constant<int, lanes>{});
    if (i < n) f(i, static_cast<int>(n - i));
}

template <class T, class N>
Vec<acc_t<T>> load_lanes(const T* p, N n) {
    using A = acc_t<T>;
    if constexpr (std::is_same_v<N, int>) {
        return load_partial<A>(p, n);
    } else {
        return load<A>(p);
    }
}
template <class A, class T, class N>
void store_lanes(T* p, Vec<A> v, N n, bool stream = false) {
    if constexpr (std::is_same_v<N, int>) {
        store_partial(p, v, n);
    } else if (stream) {
        store_stream(p, v);
    } else {
        store(p, v);
    }
}

// The sum of f(i, lanes) over a row, in four chains; unused lanes must be zero.
template <class A, class F>
FW_INLINE A sum_lanes(int64_t n, F&& f) {
    constexpr int lanes = Vec<A>::size;
    constexpr std::integral_constant<int, lanes> full;
    Vec<A> a, b, c, d;
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes) {
        a += f(i, full);
        b += f(i + lanes, full);
        c += f(i + 2 * lanes, full);
        d += f(i + 3 * lanes, full);
    }
    for (; i + lanes <= n; i += lanes) a += f(i, full);
    if (i < n) b += f(i, static_cast<int>(n - i));
    return ((a + b) + (c + d)).sum();
}

// The vector with zeros past its lanes.
template <class A, class N>
Vec<A> only(Vec<A> v, N lanes) {
    if constexpr (std::is_same_v<N, int>) {
        A kept[Vec<A>::size];
        store(kept, v);
        return load_partial<A>(kept, lanes);
    } else {
        return v;
    }
}

template <class A>
struct Moments {
    A mean, rest, rstd;  // the mean is mean + rest: the rounding of a large mean is not lost
};

// `fetch(i, lanes)` gives the row's elements, the first time in order.
template <bool centred, class A, class Fetch>
FW_INLINE Moments<A> moments(const A* row, int64_t n, A eps, Fetch&& fetch) {
    if constexpr (!centred) {
        const A squares = sum_lanes<A>(n, [&](int64_t i, auto lanes) FW_INLINE_LAMBDA {
            const Vec<A> v = fetch(i, lanes);
            return v * v;
        });
        return {A(0), A(0), A(1) / std::sqrt(squares / n + eps)};
    }
    const A mean = sum_lanes<A>(n, fetch) / n;
    Vec<A> deviations;
    const A squares = sum_lanes<A>(n, [&](int64_t i, auto lanes) FW_INLINE_LAMBDA {
        const Vec<A> v = only(load_lanes(row + i, lanes) - Vec<A>(mean), lanes);
        deviations += v;
        return v * v;
    });
    const A rest = deviations.sum() / n;
    return {mean, rest, A(1) / std::sqrt(squares / n - rest * rest + eps)};
}

template <class A>
struct Affine {
    std::vector<A> weight, bias;  // ones and zeros where absent; the weight with its offset
    bool round_first = false;     // Llama's order: round the normalised row, then multiply

    Affine(const std::optional<Tensor>& w, const std::optional<Tensor>& b, int64_t columns,
           A offset, bool rounding, const char* op)
        : weight(columns, A(1)), bias(as_acc_or_zeros<A>(b, columns, op)), round_first(rounding) {
        if (present(w)) {
            weight = as_acc<A>(*w, op);
            for (A& v : weight) v += offset;
        }
        FW_CHECK(static_cast<int64_t>(weight.size()) == columns, op, "weight.numel() is ",
                 weight.size(), ", must be ", columns);
        FW_CHECK(static_cast<int64_t>(bias.size()) == columns, op, "bias.numel() is ", bias.size(),
                 ", must be ", columns);
    }
};

struct NormOptions {
    int64_t norm_dims;
    double eps;
    Activation activation;
};

inline void check_norm_dims(const Tensor& x, int64_t norm_dims, const char* op) {
    FW_CHECK(0 < norm_dims && norm_dims <= x.dim(), op, "norm_dims is ", norm_dims,
             ", must be from 1 to ", x.dim());
}

constexpr int64_t kNormGrain = 16384;  // elements that are worth a thread

// y, the sum with the residual (or nothing), mean and rstd by row.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_forward(const char* op, const Tensor& x,
                                                        const std::optional<Tensor>& weight,
                                                        const std::optional<Tensor>& bias,
                                                        const std::optional<Tensor>& residual,
                                                        double offset, bool round_first,
                                                        const NormOptions& o) {
    check_norm_dims(x, o.norm_dims, op);
    std::vector<int64_t> shape, lead;
    for (int64_t d = 0; d < x.dim(); ++d) {
        shape.push_back(x.size(d));
        if (d < x.dim() - o.norm_dims) lead.push_back(x.size(d));
    }
    check_shape(residual, shape, op, "residual");
    Tensor y = fresh(x, shape);
    Tensor total = present(residual) ? fresh(*residual, shape) : none_like(x);
    const auto stat = x.scalar_type() == torch::headeronly::ScalarType::Double
                          ? torch::headeronly::ScalarType::Double
                          : torch::headeronly::ScalarType::Float;
    Tensor mean = centred ? fresh(x, lead, stat) : Tensor();
    Tensor rstd = fresh(x, lead, stat);
    const Rows in(x, o.norm_dims);
    with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Affine<A> affine(weight, bias, in.columns, A(offset), round_first, op);
        const int64_t n = in.columns;
        const bool stream = worth_streaming(y);
        const T* const x_data = in.tensor.const_data_ptr<T>();
        T* const y_data = y.mutable_data_ptr<T>();
        A* const means = centred ? mean.mutable_data_ptr<A>() : nullptr;
        A* const rstds = rstd.mutable_data_ptr<A>();
        // The row that is normalised is the sum that is returned, rounding included.
        std::optional<Rows> other;
        if (present(residual)) other.emplace(*residual, o.norm_dims);
        const auto add_residual = [&](int64_t r, A* row) {
            with_dtype(residual->scalar_type(), op, [&](auto residual_type) {
                using R = typename decltype(residual_type)::type;
                const R* p = other->tensor.template const_data_ptr<R>() + other->offset(r);
                R* sum = total.mutable_data_ptr<R>() + r * n;
                for (int64_t i = 0; i < n; ++i) {
                    const auto v = row[i] + static_cast<A>(to_acc(p[i * other->step]));
                    sum[i] = from_acc<R>(static_cast<acc_t<R>>(v));
                    row[i] = static_cast<A>(to_acc(sum[i]));
                }
            });
        };
        with_common_activation_in<A>(o.activation, [&](auto activation) {
            const int64_t grain = std::max<int64_t>(1, kNormGrain / (n + 1));
            torch::stable::parallel_for(0, in.rows, grain, [&](int64_t begin, int64_t end) {
                const std::unique_ptr<A[]> scratch(new A[n + 1]);
                const std::unique_ptr<T[]> narrow(round_first ? new T[n + 1] : nullptr);
                const A *const w = affine.weight.data(), *const b = affine.bias.data();
                const T* next = x_data + in.offset(begin);
                for (int64_t r = begin; r < end; ++r) {
                    const T* const p = next;
                    if (r + 1 < end) next = x_data + in.offset(r + 1);
                    T* const out = y_data + r * n;
                    // The row as accumulators: x itself, or a copy, made here or by the first pass.
                    A* const copy = scratch.get();
                    const A* row = copy;
                    const bool copied = other.has_value() || in.step != 1;
                    if (copied) load_row(p, in.step, n, copy);
                    if (other.has_value()) add_residual(r, copy);
                    if constexpr (std::is_same_v<T, A>) {
                        if (!copied) row = p;
                    }
                    const auto fetch = [=](int64_t i, auto lanes) FW_INLINE_LAMBDA {
                        if (std::is_same_v<T, A> || copied) return load_lanes(row + i, lanes);
                        const Vec<A> v = load_lanes(p + i, lanes);
                        store_lanes(copy + i, v, lanes);
                        return v;
                    };
                    const Moments<A> m = moments<centred>(row, n, A(o.eps), fetch);
                    if (centred) means[r] = m.mean + m.rest;
                    rstds[r] = m.rstd;
                    const Vec<A> shift(m.mean), rest(m.rest), scale(m.rstd);
                    const auto normal = [&](int64_t i, auto lanes) FW_INLINE_LAMBDA {
                        Vec<A> v = load_lanes(row + i, lanes);
                        if (centred) v = (v - shift) - rest;
                        return v * scale;
                    };
                    const auto finish = [&](Vec<A> v, int64_t i, auto lanes) FW_INLINE_LAMBDA {
                        v = fma(v, load_lanes(w + i, lanes), load_lanes(b + i, lanes));
                        store_lanes(out + i, activate(activation, v), lanes, stream);
                        // The next row comes nearer while this one is computed.
                        __builtin_prefetch(next + i * in.step);
                    };
                    if constexpr (!centred) {
                        if (round_first) {
                            T* const rounded = narrow.get();
                            for_lanes<A>(n, [&](int64_t i, auto lanes) FW_INLINE_LAMBDA {
                                store_lanes(rounded + i, normal(i, lanes), lanes);
                                finish(load_lanes(rounded + i, lanes), i, lanes);
                            });
                            continue;
                        }
                    }
                    for_lanes<A>(n, [&](int64_t i, auto lanes)
                                        FW_INLINE_LAMBDA { finish(normal(i, lanes), i, lanes); });
                }
                stream_fence();
            });
        });
    });
    return {y, total, mean, rstd};
}

}  // namespace fusewright::cpu::FW_ISA
