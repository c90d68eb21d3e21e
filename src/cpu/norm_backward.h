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

// The normalised row, from its saved moments.
template <bool centred, class A>
void normalise_again(A* row, int64_t n, A mean, A rstd) {
    A rest = 0;
    if (centred) {  // what the saved mean lost to rounding
        rest = sum_lanes<A>(n,
                            [&](int64_t i, auto lanes) {
                                return only(load_lanes(row + i, lanes) - Vec<A>(mean), lanes);
                            }) /
               n;
    }
    normalise<centred>(row, n, Moments<A>{mean, rest, rstd});
}

// Turns `g`, the gradient of y, into that of x; adds to the sums.
template <bool centred, Activation activation, class A>
void row_backward(const A* normalised, const A* seen, A* g, int64_t n, A rstd,
                  const Affine<A>& affine, AffineSums<A>& sums) {
    Vec<A> slopes;
    const A first = sum_lanes<A>(n, [&](int64_t i, auto lanes) {
        const Vec<A> weight = load_lanes(&affine.weight[i], lanes);
        const Vec<A> x = load_lanes(normalised + i, lanes), v = load_lanes(seen + i, lanes);
        Vec<A> grad = load_lanes(g + i, lanes);
        if constexpr (activation != Activation::none) {
            grad *= activate_grad<activation>(fma(v, weight, load_lanes(&affine.bias[i], lanes)));
        }
        store_lanes(&sums.weight[i], fma(grad, v, load_lanes(&sums.weight[i], lanes)), lanes);
        store_lanes(&sums.bias[i], load_lanes(&sums.bias[i], lanes) + grad, lanes);
        grad *= weight;
        store_lanes(g + i, grad, lanes);
        slopes = fma(grad, x, slopes);
        return grad;
    });
    const A second = slopes.sum();
    const Vec<A> mean(centred ? first / n : A(0)), slope(second / n), scale(rstd);
    for_lanes<A>(n, [&](int64_t i, auto lanes) {
        const Vec<A> x = load_lanes(normalised + i, lanes);
        const Vec<A> grad = load_lanes(g + i, lanes);
        store_lanes(g + i, ((grad - mean) - x * slope) * scale, lanes);
    });
}

template <bool centred>
std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const char* op, const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_total,
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& rstd, double offset, bool round_first, const NormOptions& o,
    int64_t needs) {
    Tensor dx = needs & 1 ? fresh_like(x) : none_like(x);
    const Rows in(x, o.norm_dims);
    FW_CHECK(rstd.numel() == in.rows && (!centred || mean.numel() == in.rows), op,
             "mean and rstd must have one element a row");
    const int64_t n = in.columns;
    const auto rows_of = [&](const std::optional<Tensor>& t) {
        FW_CHECK(!present(t) || t->numel() == x.numel(), op, "a gradient must have the shape of x");
        return present(t) ? std::optional(Rows(*t, o.norm_dims)) : std::nullopt;
    };
    const auto dy = rows_of(grad_y), dtotal = rows_of(grad_total);
    const auto parameter = [&](int bit, const std::optional<Tensor>& like, const auto& values) {
        if (!(needs >> bit & 1) || !present(like)) return none_like(x);
        Tensor dense = torch::stable::new_empty(*like, {n});
        write_acc(dense, values.data(), op);
        std::vector<int64_t> shape;
        for (int64_t d = 0; d < like->dim(); ++d) shape.push_back(like->size(d));
        Tensor result = torch::stable::empty_like(*like);
        torch::stable::copy_(result, torch::stable::view(dense, shape));
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
        Tensor dense = scattered ? torch::stable::contiguous(dx) : dx;
        if (scattered) out.emplace(dense, o.norm_dims);
        const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(64, in.rows / 8));
        std::vector<AffineSums<A>> sums(blocks, AffineSums<A>(n));
        const int64_t grain = std::max<int64_t>(1, kNormGrain / (in.rows / blocks * n + 1));
        with_common_activation(o.activation, [&](auto activation) {
            torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
                std::vector<A> normalised(n + 1), g(n + 1), rounded(round_first ? n + 1 : 0);
                std::vector<T> narrow(round_first ? n + 1 : 0);
                for (int64_t block = begin; block < end; ++block) {
                    const int64_t last = (block + 1) * in.rows / blocks;
                    for (int64_t r = block * in.rows / blocks; r < last; ++r) {
                        load_row(in.tensor.const_data_ptr<T>() + in.offset(r), in.step, n,
                                 normalised.data());
                        const A scale = rstd.const_data_ptr<A>()[r];
                        normalise_again<centred>(normalised.data(), n,
                                                 centred ? mean.const_data_ptr<A>()[r] : A(0),
                                                 scale);
                        const A* seen = normalised.data();
                        if (round_first) {
                            rounded = normalised;
                            round_row(rounded.data(), n, narrow.data());
                            seen = rounded.data();
                        }
                        if (dy) {
                            load_any(dy, r, g.data());
                        } else {
                            std::fill(g.begin(), g.end(), A(0));
                        }
                        row_backward<centred, activation>(normalised.data(), seen, g.data(), n,
                                                          scale, affine, sums[block]);
                        if (!out) continue;
                        if (dtotal) {
                            load_any(dtotal, r, normalised.data());
                            for (int64_t i = 0; i < n; ++i) g[i] += normalised[i];
                        }
                        store_row(g.data(), out->step, n,
                                  out->tensor.template mutable_data_ptr<T>() + out->offset(r));
                    }
                }
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
