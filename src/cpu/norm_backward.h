// The gradients of layer_norm and rms_norm: that of x in one pass over the rows, those of weight
// and bias summed over fixed blocks of rows, so that the threads don't change a bit.
#pragma once

#include "cpu/norm.h"

namespace fusewright::cpu::FW_ISA {

// The sums of one block of rows.
template <class A>
struct AffineSums {
    std::vector<A> weight, bias;
    explicit AffineSums(int64_t columns) : weight(columns), bias(columns) {}
};

// Rounded to a 16-bit type and back. Llama's order rounds to the type of y, which is that of its
// gradient; the rows are of the sum's type, which may be another.
template <class A>
Vec<A> rounded(Vec<A> v, ScalarType dtype) {
    const auto through = [&](auto narrow) {
        decltype(narrow) kept[Vec<A>::size];
        store(kept, v);
        return load<A>(kept);
    };
    if constexpr (std::is_same_v<A, float>) {
        if (dtype == ScalarType::BFloat16) return through(BFloat16());
        if (dtype == ScalarType::Half) return through(Half());
    }
    return v;
}

// Writes the gradient of x for one row of y's, into `g`; adds to the sums. `fetch_x` and `fetch_g`
// give the rows of x and of the gradient of y as functions of (i, lanes); `round` is what the
// forward did to a normalised vector before the weight.
template <bool centred, class A, class Act, class X, class G, class Round>
void row_backward(Act activation, X&& fetch_x, G&& fetch_g, Round&& round, A* g, int64_t n,
                  A saved_mean, A rstd, const Affine<A>& affine, AffineSums<A>& sums) {
    const Vec<A> mean(saved_mean), scale(rstd);
    Vec<A> rest;  // what the saved mean lost to rounding
    if (centred) {
        rest = Vec<A>(
            sum_lanes<A>(
                n, [&](int64_t i, auto lanes) { return only(fetch_x(i, lanes) - mean, lanes); }) /
            n);
    }
    const auto normalised = [&](int64_t i, auto lanes) {
        const Vec<A> v = fetch_x(i, lanes);
        return (centred ? (v - mean) - rest : v) * scale;
    };
    Vec<A> slopes;
    const A first = sum_lanes<A>(n, [&](int64_t i, auto lanes) {
        const Vec<A> weight = load_lanes(&affine.weight[i], lanes);
        const Vec<A> x = normalised(i, lanes), v = round(x);
        Vec<A> grad = fetch_g(i, lanes);
        if (activation != Activation::none) {
            grad *= activate_grad(activation, fma(v, weight, load_lanes(&affine.bias[i], lanes)));
        }
        store_lanes(&sums.weight[i], only(fma(grad, v, load_lanes(&sums.weight[i], lanes)), lanes),
                    lanes);
        store_lanes(&sums.bias[i], load_lanes(&sums.bias[i], lanes) + grad, lanes);
        grad *= weight;
        store_lanes(g + i, grad, lanes);
        slopes += only(grad * x, lanes);
        return grad;
    });
    const Vec<A> shift(centred ? first / n : A(0)), slope(slopes.sum() / n);
    for_lanes<A>(n, [&](int64_t i, auto lanes) {
        const Vec<A> grad = load_lanes(g + i, lanes);
        store_lanes(g + i, ((grad - shift) - normalised(i, lanes) * slope) * scale, lanes);
    });
}

template <bool centred>
std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const char* op, const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_total,
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& rstd, double offset, bool round_first, const NormOptions& o,
    int64_t needs) {
    check_norm_dims(x, o.norm_dims, op);
    Tensor dx = needs & 1 ? fresh_like(x) : none_like(x);
    const Rows in(x, o.norm_dims);
    const auto statistic = [&](const Tensor& t, const char* name) {
        FW_CHECK(t.numel() == in.rows, op, name, ".numel() is ", t.numel(), ", must be ", in.rows,
                 ", one a row");
        check_dtype(t, acc_dtype(x.scalar_type()), op, name);
        return as_contiguous(t);
    };
    const Tensor means = centred ? statistic(mean, "mean") : mean, rstds = statistic(rstd, "rstd");
    const int64_t n = in.columns;
    const auto rows_of = [&](const std::optional<Tensor>& t, const char* name) {
        check_shape(t, x.sizes(), op, name);
        return present(t) ? std::optional(Rows(*t, o.norm_dims)) : std::nullopt;
    };
    const auto dy = rows_of(grad_y, "grad_y");
    const auto dtotal = rows_of(grad_total, "grad_residual_out");
    const auto parameter = [&](int bit, const std::optional<Tensor>& like, const auto& values) {
        if (!(needs >> bit & 1) || !present(like)) return none_like(x);
        Tensor dense = fresh(*like, {n});
        write_acc(dense, values.data(), op);
        Tensor result = fresh_like(*like);
        torch::stable::copy_(result, torch::stable::view(dense, shape_of(*like)));
        return result;
    };
    return with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const Affine<A> affine(weight, bias, n, A(offset), round_first, op);
        // The gradients of y and of the sum may come in another 16-bit type than x.
        const auto load_any = [&](const std::optional<Rows>& rows, int64_t r, A* out) {
            with_dtype(rows->tensor.scalar_type(), op, [&](auto grad_type) {
                using G = typename decltype(grad_type)::type;
                const G* p = rows->tensor.const_data_ptr<G>() + rows->offset(r);
                if constexpr (std::is_same_v<acc_t<G>, A>) {
                    load_row(p, rows->step, n, out);
                } else {
                    for (int64_t i = 0; i < n; ++i) {
                        out[i] = static_cast<A>(to_acc(p[i * rows->step]));
                    }
                }
            });
        };
        // `dx` has the strides of x, or dense ones where x overlaps itself.
        std::optional<Rows> out;
        if (needs & 1) out.emplace(dx, o.norm_dims);
        const bool scattered = out && out->tensor.data_ptr() != dx.data_ptr();
        Tensor dense = scattered ? as_contiguous(dx) : dx;
        if (scattered) out.emplace(dense, o.norm_dims);
        const bool stream = out && out->step == 1 && !scattered && worth_streaming(dx);
        const bool same_type = dy && dy->tensor.scalar_type() == x.scalar_type();
        const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(64, in.rows / 8));
        std::vector<AffineSums<A>> sums(blocks, AffineSums<A>(n));
        const int64_t grain = std::max<int64_t>(1, kNormGrain / (in.rows / blocks * n + 1));
        with_common_activation_in<A>(o.activation, [&](auto activation) {
            torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
                std::vector<A> row(n + 1), dy_row(n + 1), g(n + 1);
                for (int64_t block = begin; block < end; ++block) {
                    const int64_t last = (block + 1) * in.rows / blocks;
                    for (int64_t r = block * in.rows / blocks; r < last; ++r) {
                        const T* x_row = in.tensor.const_data_ptr<T>() + in.offset(r);
                        if (in.step != 1) load_row(x_row, in.step, n, row.data());
                        const auto fetch_x = [&](int64_t i, auto lanes) {
                            return in.step == 1 ? load_lanes(x_row + i, lanes)
                                                : load_lanes(row.data() + i, lanes);
                        };
                        const T* direct =
                            same_type && dy->step == 1
                                ? dy->tensor.template const_data_ptr<T>() + dy->offset(r)
                                : nullptr;
                        if (dy && direct == nullptr) load_any(dy, r, dy_row.data());
                        const auto fetch_g = [&](int64_t i, auto lanes) {
                            return direct != nullptr ? load_lanes(direct + i, lanes)
                                                     : load_lanes(dy_row.data() + i, lanes);
                        };
                        const auto round = [&](Vec<A> v) {
                            return round_first && dy ? rounded(v, dy->tensor.scalar_type()) : v;
                        };
                        row_backward<centred>(activation, fetch_x, fetch_g, round, g.data(), n,
                                              centred ? means.const_data_ptr<A>()[r] : A(0),
                                              rstds.const_data_ptr<A>()[r], affine, sums[block]);
                        if (!out) continue;
                        if (dtotal) {
                            load_any(dtotal, r, row.data());
                            for (int64_t i = 0; i < n; ++i) g[i] += row[i];
                        }
                        T* const to = out->tensor.template mutable_data_ptr<T>() + out->offset(r);
                        if (!stream) {
                            store_row(g.data(), out->step, n, to);
                            continue;
                        }
                        for_lanes<A>(n, [&](int64_t i, auto lanes) {
                            store_lanes(to + i, load_lanes(&g[i], lanes), lanes, true);
                        });
                    }
                }
                stream_fence();
            });
        });
        if (scattered) torch::stable::copy_(dx, dense);
        std::vector<double> dweight(n), dbias(n);
        for (const AffineSums<A>& block : sums) {
            for (int64_t i = 0; i < n; ++i) {
                dweight[i] += block.weight[i];
                dbias[i] += block.bias[i];
            }
        }
        return std::tuple(dx, parameter(1, weight, dweight), parameter(2, bias, dbias));
    });
}

}  // namespace fusewright::cpu::FW_ISA
