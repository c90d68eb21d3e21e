#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "dtype.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
using torch::stable::Tensor;
std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const std::optional<Tensor>& weight,
                                    double eps) {
    FW_CHECK(x.scalar_type() == torch::headeronly::ScalarType::Double, "rms_norm", "proto");
    auto y = torch::stable::empty_like(x);
    int64_t c = x.size(x.dim() - 1), n = x.numel() / c;
    auto r = torch::stable::new_empty(x, {x.size(0)});
    auto xp = x.const_data_ptr<double>();
    auto yp = y.mutable_data_ptr<double>();
    auto rp = r.mutable_data_ptr<double>();
    for (int64_t i = 0; i < n; ++i) {
        double s = 0;
        for (int64_t j = 0; j < c; ++j) s += xp[i * c + j] * xp[i * c + j];
        rp[i] = 1 / std::sqrt(s / c + eps);
        for (int64_t j = 0; j < c; ++j)
            yp[i * c + j] =
                xp[i * c + j] * rp[i] * (weight ? weight->const_data_ptr<double>()[j] : 1);
    }
    return {y, r};
}
std::tuple<Tensor, Tensor> rms_norm_backward(const std::optional<Tensor>& g, const Tensor& x,
                                             const std::optional<Tensor>& weight,
                                             const Tensor& rstd, double eps, int64_t needs) {
    auto dx = torch::stable::empty_like(x);
    auto dw = torch::stable::new_empty(x, {needs & 2 ? x.size(1) : 0});
    int64_t c = x.size(1), n = x.numel() / c;
    auto gg = torch::stable::contiguous(*g);
    auto xp = x.const_data_ptr<double>();
    auto gp = gg.const_data_ptr<double>();
    auto dp = dx.mutable_data_ptr<double>();
    auto wp = dw.mutable_data_ptr<double>();
    auto rp = rstd.const_data_ptr<double>();
    if (needs & 2)
        for (int64_t j = 0; j < c; ++j) wp[j] = 0;
    for (int64_t i = 0; i < n; ++i) {
        double m = 0;
        auto w = [&](int64_t j) { return weight ? weight->const_data_ptr<double>()[j] : 1.0; };
        for (int64_t j = 0; j < c; ++j) m += gp[i * c + j] * w(j) * xp[i * c + j] * rp[i] / c;
        for (int64_t j = 0; j < c; ++j) {
            dp[i * c + j] = (gp[i * c + j] * w(j) - xp[i * c + j] * rp[i] * m) * rp[i];
            if (needs & 2) wp[j] += gp[i * c + j] * xp[i * c + j] * rp[i];
        }
    }
    return {dx, dw};
}
}  // namespace fusewright::cpu::FW_ISA
